"""What every package stands on: problems with places, units, tables of parts, hashing, files, devices."""
