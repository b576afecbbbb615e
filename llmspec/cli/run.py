"""`llmspec run`: trains what a spec describes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmspec.api import RUNS, compiled
from llmspec.cli.arguments import Json, Offline, Sets, SpecPath, place
from llmspec.core.visible import command, path_word

if TYPE_CHECKING:
    from llmspec.spec import SpecReading

EXAMPLES = (
    "Examples:  `llmspec run quickstart`  ·  "
    "`llmspec run quickstart --set phases.pretrain.budget='3M tokens' --out runs/longer`"
)

Only = Annotated[
    list[str] | None, typer.Option("--only", metavar="PHASE", help="Run this phase alone; may be given again.")
]
From = Annotated[
    str | None, typer.Option("--from", metavar="PHASE", help="Run this phase, and those that build on it.")
]
ContinueFrom = Annotated[
    Path | None,
    typer.Option(
        "--continue-from",
        metavar="PATH",
        parser=place,
        help="Phases that have changed go on from their last checkpoint (`last`), or from that of a run or folder.",
    ),
]
NoReuse = Annotated[
    bool, typer.Option("--no-reuse", help="Train also what another run in runs/ has trained with the same settings.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show which phases would be trained, which taken, and why.")]
Certify = Annotated[
    bool, typer.Option("--certify", help="Stop and resume each phase on a short budget, and compare bit by bit.")
]


def run(
    spec: SpecPath,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="FOLDER", parser=place, help="Run directory; runs/NAME if omitted."),
    ] = None,
    set_: Sets = None,
    offline: Offline = False,
    locked: Annotated[
        bool, typer.Option("--locked", help="Refuse to run if anything differs from the run directory's lock.json.")
    ] = False,
    lock: Annotated[
        Path | None,
        typer.Option(metavar="PATH", parser=place, help="The same, with this lock.json or the one of this run."),
    ] = None,
    only: Only = None,
    from_: From = None,
    continue_from: ContinueFrom = None,
    no_reuse: NoReuse = False,
    dry_run: DryRun = False,
    certify: Certify = False,
    json_: Json = False,
) -> Any:
    """Train what a spec describes; resume where an earlier run of it stopped."""
    from llmspec.training.stop import on_signals

    if dry_run:
        return dry(spec, out, set_, offline, only, from_, json_, continue_from, reuses(out, no_reuse))
    if certify:
        return certified(spec, out, set_, offline, json_)
    with on_signals():  # before anything large is imported
        from llmspec.render.live import watcher
        from llmspec.render.waiting import waiting
        from llmspec.training.run import run as train
        from llmspec.training.selection import Selection

        with waiting("opening the model", lines=True) as say:
            loaded, plan = compiled(spec, set_, offline, lambda what, done, total: say(what))
        folder = out or RUNS / plan.name
        go_on = again(spec, out, set_, offline, locked, lock, only, from_, json_, continue_from, no_reuse)
        then = (*asked(plan, folder), command("explain", path_word(folder)))
        with loaded.placing(), watcher(go_on, then, aside=json_) as watch:
            done = train(
                plan,
                folder,
                files=written(loaded, set_),
                watcher=watch,
                offline=offline,
                locked=lock or (folder if locked else None),
                selection=Selection(tuple(only or ()), from_ or "", reuses(out, no_reuse)),
                continue_from=continue_from or "",
            )
    if json_:
        from llmspec.explain.summary import run_summary

        return run_summary(done, watch.taken)


def asked(plan: Any, folder: Path) -> tuple[str, ...]:
    """The command that shows what a run's model can do; none where no phase makes one."""
    from llmspec.parts.phases.base import EMBEDDER, FILLER, OPENED

    opened = next((phase for phase in reversed(plan.phases) if phase.makes in OPENED), None)
    if opened is None:
        return ()
    if opened.makes == EMBEDDER:
        return (command("embed", path_word(folder), "--text", "…", "--text", "…"),)
    prompt = "… [MASK] …" if opened.makes == FILLER else "…"
    if opened.phase.cuts == "spans":
        prompt = "… <extra_id_0> …"
    return (command("sample", path_word(folder), "--prompt", prompt),)


def reuses(out: Path | None, no_reuse: bool) -> bool:
    """Whether phases are taken from other runs: in the folder of runs, and in no other that a run is put into."""
    return not no_reuse and (out is None or out.absolute().parent.name == RUNS.name)


def dry(
    spec: Path,
    out: Path | None,
    set_: list[str] | None,
    offline: bool,
    only: list[str] | None,
    start: str | None,
    json_: bool,
    continue_from: Path | None = None,
    reuse: bool = True,
) -> Any:
    """`run --dry-run`: reads the data, and says what a run would do."""
    from llmspec.api_runs import planned_run
    from llmspec.cli.explain import reading
    from llmspec.render.reports import show

    with reading() as progress:
        report = planned_run(
            spec,
            out,
            set_,
            tuple(only or ()),
            start or "",
            offline=offline,
            progress=progress,
            continue_from=continue_from or "",
            reuse=reuse,
        )
    if json_:
        return report.as_data()
    show(report)


def certified(spec: Path, out: Path | None, set_: list[str] | None, offline: bool, json_: bool) -> Any:
    """`run --certify`: whether phases that are stopped go on bit for bit."""
    from llmspec.api_runs import certificate
    from llmspec.render import certificates
    from llmspec.render.waiting import waiting

    with waiting("certifying", lines=True) as say:
        found = certificate(spec, out, set_, lambda loaded: written(loaded, set_), say, offline=offline)
    if not json_:
        certificates.show(found)
    certificates.refuse(found)
    return found.model_dump(mode="json") if json_ else None


def again(
    spec: Path,
    out: Path | None,
    set_: list[str] | None,
    offline: bool,
    locked: bool,
    lock: Path | None,
    only: list[str] | None,
    from_: str | None,
    json_: bool,
    continue_from: Path | None = None,
    no_reuse: bool = False,
) -> str:
    """The command that goes on with a run, for a shell."""
    flags = {"--offline": offline, "--locked": locked, "--no-reuse": no_reuse, "--json": json_}
    places = {"--out": out, "--lock": lock, "--continue-from": continue_from}
    return command(
        "run",
        path_word(spec),
        *(f"--set={s}" for s in set_ or ()),
        *(f"{name}={path_word(place)}" for name, place in places.items() if place),
        *(f"--only={name}" for name in only or ()),
        *([f"--from={from_}"] if from_ else []),
        *(flag for flag, given in flags.items() if given),
    )


def written(loaded: SpecReading, overrides: list[str] | None) -> dict[str, str]:
    """The spec's texts by file name, and the overrides given beside them."""
    files: dict[str, str] = {}
    for path, text in loaded.files:
        name, number = path.name, 1
        while name in files:
            number += 1
            name = f"{path.stem}.{number}{path.suffix}"
        files[name] = text
    return {**files, "overrides.txt": "".join(f"{s}\n" for s in overrides)} if overrides else files
