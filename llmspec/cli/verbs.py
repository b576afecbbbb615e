"""The verbs: arguments -> one call -> render. Nothing heavy is imported before a verb needs it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from llmspec.api import (
    RUNS,
    compiled,
    decoding_settings,
    explained_pair,
    explained_spec,
    foretold,
    gpu,
    graph_proofs,
    is_spec,
    made_for,
    measured,
    opened,
    run_folder,
    scheduled,
    tell_unknown,
    written,
)
from llmspec.cli.arguments import Json, Offline, RunPath, Sets, SpecPath, no_run, place
from llmspec.cli.failures import STATUSES
from llmspec.cli.verb import Verb, Verbs
from llmspec.core.problems import LlmspecError
from llmspec.core.visible import command, path_word

app = typer.Typer(
    cls=Verbs,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=STATUSES,
    help="One YAML file holds the whole life of a language model: architecture, tokenizer, data, training, "
    "decoding.\n\nStart with `llmspec run quickstart`, then `llmspec sample` and `llmspec explain`.",
)


def version(asked: bool) -> None:
    """Prints the version and ends."""
    if asked:
        from importlib.metadata import PackageNotFoundError
        from importlib.metadata import version as installed

        from llmspec.render.terminal import out

        try:
            number = installed("llmspec")
        except PackageNotFoundError:  # a checkout that is not installed
            number = "(not installed)"
        out().print(f"llmspec {number}")
        raise typer.Exit()


@app.callback()
def about(
    version: Annotated[
        bool, typer.Option("--version", callback=version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


@app.command(
    cls=Verb,
    epilog="Examples:  `llmspec run quickstart`  ·  "
    "`llmspec run quickstart --set phases.pretrain.budget='3M tokens' --out runs/longer`",
)
def run(
    spec: SpecPath,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="FOLDER", parser=place, help="Run directory; runs/NAME where left out."),
    ] = None,
    set_: Sets = None,
    offline: Offline = False,
    locked: Annotated[
        bool, typer.Option("--locked", help="Refuse to run on anything else than the run directory's lock.json says.")
    ] = False,
    lock: Annotated[
        Path | None,
        typer.Option(metavar="PATH", parser=place, help="The same with this lock.json, or that of this run."),
    ] = None,
    json_: Json = False,
) -> Any:
    """Train what a spec describes; go on where an earlier run of it stopped."""
    from llmspec.training.stop import on_signals

    with on_signals():  # before anything large is imported
        from llmspec.render.live import watcher
        from llmspec.training.run import run as train

        loaded, plan = compiled(spec, set_)
        folder = out or RUNS / plan.name
        go_on = again(spec, out, set_, offline, locked, lock, json_)
        then = (command("sample", path_word(folder), "--prompt", "…"), command("explain", path_word(folder)))
        with loaded.placing(), watcher(go_on, then, aside=json_) as watch:
            done = train(
                plan,
                folder,
                files=written(loaded, set_),
                watcher=watch,
                offline=offline,
                locked=lock or (folder if locked else None),
            )
    if json_:
        from llmspec.explain.summary import run_summary

        return run_summary(done, watch.taken)


def again(
    spec: Path, out: Path | None, set_: list[str] | None, offline: bool, locked: bool, lock: Path | None, json_: bool
) -> str:
    """The command that goes on with a run, for a shell."""
    flags = {"--offline": offline, "--locked": locked, "--json": json_}
    places = {"--out": out, "--lock": lock}
    return command(
        "run",
        path_word(spec),
        *(f"--set={s}" for s in set_ or ()),
        *(f"{name}={path_word(place)}" for name, place in places.items() if place),
        *(flag for flag, given in flags.items() if given),
    )


@app.command(
    cls=Verb,
    epilog="Examples:  `llmspec sample --prompt 'What is a violin?'`  ·  "
    "`llmspec sample runs/quickstart --prompt 'ROMEO' --n 4 --set decoding.temperature=0.5`",
)
def sample(
    run: RunPath = None,
    prompt: Annotated[
        str, typer.Option(help="What to answer (chat models) or to continue; - reads standard input.")
    ] = "",
    system: Annotated[str, typer.Option(help="What a chat model is told before the prompt.")] = "",
    n: Annotated[int, typer.Option(min=1, max=64, help="Number of answers.")] = 1,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same text.")] = None,
    plain: Annotated[bool, typer.Option("--plain", help="Continue the prompt as text, chat model or not.")] = False,
    phase: Annotated[
        str | None, typer.Option(help="Take the weights of this phase; the last that has some where left out.")
    ] = None,
    set_: Sets = None,
    json_: Json = False,
) -> Any:
    """Let a trained model write."""
    from llmspec.cli.forms import prompt_of, turns_for
    from llmspec.render import samples

    prompt = prompt_of(prompt)
    model = opened(run, phase)
    decoding = decoding_settings(model, set_)
    chat = model.chat and not plain
    turns = turns_for(model, chat, prompt, system)
    tell_unknown(model, prompt, system)
    if json_:
        answers = model.generate(turns, n=n, seed=seed, chat=chat, decoding=decoding)
        return samples.as_data(model, prompt, answers)
    samples.show(model, prompt, model.stream(turns, n=n, seed=seed, chat=chat, decoding=decoding), n, chat)


@app.command(
    cls=Verb,
    epilog="Examples:  `llmspec explain quickstart`  ·  `llmspec explain runs/quickstart`  ·  "
    "`llmspec explain runs/quickstart --prompt 'What is a comet?'`  ·  "
    "`llmspec explain quickstart --part model.attention`  ·  "
    "`llmspec explain A.yaml B.yaml`",
)
def explain(
    what: Annotated[
        Path | None,
        typer.Argument(metavar="SPEC | RUN", parser=place, help="A spec or a run; the newest run where left out."),
    ] = None,
    other: Annotated[
        Path | None,
        typer.Argument(metavar="SPEC | RUN", parser=place, help="A second one: what differs, and what follows."),
    ] = None,
    part: Annotated[str | None, typer.Option(help="One part of a spec in depth, such as model.attention.")] = None,
    exact: Annotated[bool, typer.Option("--exact", help="Ask the scheduled graphs for the memory of a spec.")] = False,
    time: Annotated[bool, typer.Option("--time", help="Measure this machine, and say how long a spec takes.")] = False,
    prompt: Annotated[str | None, typer.Option(help="Show how each token of an answer was chosen.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same text.")] = None,
    top: Annotated[int, typer.Option(min=1, max=20, help="Candidates shown for each token.")] = 5,
    set_: Sets = None,
    json_: Json = False,
) -> Any:
    """Say what a spec will do, or what a run has done, or how a text was chosen."""
    report: Any
    if what is not None and other is not None:
        report = explained_pair(what, other, set_)
    elif prompt is None and what is not None and (is_spec(what) or part is not None or exact or time):
        report = explained_spec(what, set_, part, exact, time)
    elif prompt is not None:
        from llmspec.cli.forms import prompt_of
        from llmspec.explain.decoding import explain_prompt

        prompt = prompt_of(prompt)
        model = opened(what)
        tell_unknown(model, prompt)
        report = explain_prompt(model, prompt, seed=seed, top=top, decoding=decoding_settings(model, set_))
    else:
        from llmspec.explain.run import explain_run

        report = explain_run(run_folder(what))
    if json_:
        return report.as_data()
    from llmspec.render.reports import show

    show(report)


@app.command(
    cls=Verb,
    epilog="Examples:  `llmspec check quickstart`  ·  `llmspec check my.yaml --data`  ·  "
    "`llmspec check my.yaml --device CUDA:sm_90 --set precision=bfloat16`",
)
def check(
    spec: SpecPath,
    set_: Sets = None,
    exact: Annotated[bool, typer.Option("--exact", help="Ask the scheduled graphs whether they fit.")] = False,
    data: Annotated[bool, typer.Option("--data", help="Read the data too, downloading what is missing.")] = False,
    graph: Annotated[bool, typer.Option("--graph", help="Build the model and see who influences whom in it.")] = False,
    time: Annotated[bool, typer.Option("--time", help="Measure this machine, and say how long phases take.")] = False,
    device: Annotated[
        str | None,
        typer.Option(metavar="GPU", help="Make every kernel for a GPU that need not be here: CUDA:sm_90, METAL."),
    ] = None,
    json_: Json = False,
) -> Any:
    """Find every problem of a spec before anything is spent. Exit status 2 where there are some."""
    from llmspec.compiler import pending, prove, refuse

    target = gpu(device) if device else None
    loaded, plan = compiled(spec, [*(set_ or ()), f"device={target.device}"] if target else set_)
    with loaded.placing():
        plan, shown, notices = measured(plan, aside=json_) if data else (plan, pending(plan), ())
        proofs = (*prove(plan), *(graph_proofs(plan) if graph else ()), *shown)
        refuse(proofs)
    times = foretold(plan, time)
    peaks = {name: sum(items.values()) for name, items in scheduled(plan).items()} if exact else {}
    kernels = made_for(plan, target) if target else None
    if json_:
        about = {
            "name": plan.name,
            "parameters": plan.model.parameters,
            "phases": [p.name for p in plan.phases],
            "proofs": [p.model_dump(mode="json") for p in proofs],
            "notices": list(notices),
            **({"peaks": peaks} if exact else {}),
            "times": {name: found.model_dump(mode="json") for name, found in times.items()},
            **({"kernels": kernels.model_dump(mode="json")} if kernels else {}),
        }
        return {"ok": True, "problems": [], **about}
    from llmspec.render.proofs import checked

    checked(plan, proofs, peaks, [found.sentence for found in times.values()], data, notices)
    if kernels:
        from llmspec.render.report_kernels import show

        show(kernels)


@app.command(
    cls=Verb,
    epilog="Examples:  `llmspec new notes --text ~/notes`  ·  "
    "`llmspec new helper --chat answers.jsonl`  ·  "
    "`llmspec new both --text docs --chat faq.csv --minutes 30`",
)
def new(
    folder: Annotated[
        Path,
        typer.Argument(metavar="FOLDER", parser=place, help="Where the spec is written, and what it is called after."),
    ],
    text: Annotated[
        Path | None,
        typer.Option(metavar="PATH", parser=place, help="A folder of text, or one file, to be learned and continued."),
    ] = None,
    chat: Annotated[
        Path | None,
        typer.Option(metavar="PATH", parser=place, help="Dialogues to answer like: .jsonl, .json, .csv or .tsv."),
    ] = None,
    minutes: Annotated[float, typer.Option(min=0.1, max=10_000, help="How long training is to take here.")] = 10.0,
    json_: Json = False,
) -> Any:
    """Write a commented spec for your own files, after looking at them; without files, the quickstart to change."""
    from llmspec.render.report_new import show
    from llmspec.render.waiting import waiting
    from llmspec.scaffold.new import create

    if folder.is_file():
        raise LlmspecError(f"`{folder}` is a file, and a folder is meant here", hint=command("new", "FOLDER"))
    if folder.suffix in (".yaml", ".yml") and not folder.exists():
        raise LlmspecError(
            f"`{folder}` is named like a file, and a folder is meant here",
            hint=f"{command('new', path_word(folder.with_suffix('')))} writes the spec into that folder",
        )
    if (folder / "plan.json").is_file():
        raise LlmspecError(
            f"`{folder}` is a run directory, and a spec stands outside of it", hint=command("new", "FOLDER")
        )
    with no_run(), waiting("looking at the files") as say:
        made = create(
            folder,
            text,
            chat,
            minutes,
            lambda what, done, total: say(f"{what}, {100 * done / total:.0f}%" if total else what),
        )
    if json_:
        return made.model_dump(mode="json")
    show(made)


@app.command(
    cls=Verb,
    epilog="Example:  `llmspec schema -o specs/schema.json`, and in a spec's first line "
    "`# yaml-language-server: $schema=schema.json`",
)
def schema(
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="FILE", parser=place, help="Write it to this file.")
    ] = None,
) -> None:
    """Print the JSON Schema of specs: editors complete, explain and check keys with it."""
    from llmspec.runs.files import write_text
    from llmspec.spec.json_schema import as_text

    if out:
        if out.is_dir():
            raise LlmspecError(
                f"the schema cannot be written: `{out}` is a folder",
                hint=f"-o {path_word(out / 'schema.json')} names a file in it",
            )
        with no_run():
            write_text(out, as_text())
    else:
        from llmspec.render.terminal import out as standard_output

        standard_output().write(as_text())


@app.command(
    cls=Verb,
    epilog="Examples:  `llmspec bench`  ·  "
    "`llmspec bench my.yaml --against torch --against transformers`  ·  "
    "`llmspec bench --only machine`",
)
def bench(
    spec: Annotated[
        Path | None, typer.Argument(metavar="SPEC", parser=place, help="A spec; by default the quickstart.")
    ] = None,
    against: Annotated[
        list[str] | None,
        typer.Option(metavar="PEER", help="Compare with torch (training) or transformers (prefill, decode)."),
    ] = None,
    only: Annotated[list[str] | None, typer.Option(metavar="WORK", help="machine, train, prefill or decode.")] = None,
    phase: Annotated[str | None, typer.Option(help="The phase whose step is measured; the first by default.")] = None,
    rounds: Annotated[int, typer.Option(min=1, max=100, help="Times that every side is measured, in turns.")] = 3,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps timed in a round; some seconds' by default.")] = None,
    set_: Sets = None,
    json_: Json = False,
) -> Any:
    """Measure this machine, and a spec's training and decoding on it, also beside other libraries."""
    from llmspec.bench.run import bench as measure
    from llmspec.render.report_bench import progress, show

    _, plan = compiled(spec or Path("quickstart"), set_)
    with progress() as say:
        report = measure(
            plan, only=only or (), against=against or (), phase=phase, rounds=rounds, steps=steps, progress=say
        )
    if json_:
        return report.model_dump(mode="json")
    show(report)
