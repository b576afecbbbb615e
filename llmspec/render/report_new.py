"""What `llmspec new` has written, and what to run next."""

from __future__ import annotations

from llmspec.core.units import count, duration, size
from llmspec.core.visible import command, path_word
from llmspec.render.terminal import Text, out
from llmspec.scaffold.contents import Contents
from llmspec.scaffold.new import Created


def show(created: Created) -> None:
    """Prints it."""
    console = out()
    console.print(
        Text(
            f"wrote {created.path}: {count(created.parameters)} parameters"
            + (
                f", {'bytes' if created.sizes.tokenizer == 'byte' else f'a vocabulary of {created.sizes.vocab:,}'}, "
                f"context {created.sizes.context}"
                if created.sizes
                else ""
            )
        ),
        soft_wrap=True,
    )
    for key, found in (("text", created.text), ("dialogues", created.chat)):
        if found:
            for line in lines(key, found):
                console.print(Text(f"  {line}"), soft_wrap=True)
    if created.seconds is not None:
        console.print(Text(f"  training: about {duration(created.seconds)}, {created.origin}"), soft_wrap=True)
    console.print(Text("then:"))
    for words in (("check", path_word(created.path), "--data"), ("run", path_word(created.path))):
        console.print(Text(f"  {command(*words)}"), soft_wrap=True)


def lines(key: str, found: Contents) -> list[str]:
    """What was found in the files of a source."""
    about = "" if found.whole else "about "
    what = (
        f"in the {found.format} format"
        if found.format
        else (
            "guessed from two fields: " + ", ".join(f"{role} {field}" for role, field in found.template.items())
            if found.template
            else ("record" if found.records else "document") + "s" * (found.documents != 1)
        )
    )
    said = [
        f"{key}: {found.files:,} file{'s' * (found.files != 1)} "
        f"({', '.join(f'{n:,} {suffix}' for suffix, n in found.kinds.items())}), {size(found.bytes)}; "
        f"{about}{found.documents:,} {what}, {about}{count(found.characters)} characters"
    ]
    if found.left_out:
        said.append("skipped: " + ", ".join(f"{n:,} {suffix}" for suffix, n in found.left_out.items()))
    return [*said, *found.notes]
