"""The verbs: arguments -> one call -> render. Nothing heavy is imported before a verb needs it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from llmspec.bench.pace import Forecast
    from llmspec.compiler.plan import Plan
    from llmspec.compiler.proofs import Proof
    from llmspec.core.targets import Target
    from llmspec.model.elsewhere import Made
    from llmspec.spec import Reading

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode="markdown", add_completion=False, pretty_exceptions_enable=False,
    help="One YAML file holds the whole life of a language model: architecture, tokenizer, data, training, "
         "decoding.\n\nStart with `llmspec run specs/quickstart.yaml`, then `llmspec sample` and `llmspec explain`.",
)

SpecPath = Annotated[Path, typer.Argument(metavar="SPEC", help="A spec, such as specs/quickstart.yaml.")]
RunPath = Annotated[Path | None, typer.Argument(metavar="[RUN]", help="A run directory; the newest where left out.")]
Sets = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE",
                                                help="Override a key, e.g. phases.pretrain.optimizer.lr=3e-4.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Offline = Annotated[bool, typer.Option("--offline", help="Download nothing; fail where a source is not cached.")]
RUNS = Path("runs")


@app.command(epilog="Examples:  `llmspec run specs/quickstart.yaml`  ·  "
                    "`llmspec run specs/quickstart.yaml --set phases.pretrain.budget='3M tokens' --out runs/longer`")
def run(
    spec: SpecPath,
    out: Annotated[Path | None, typer.Option(help="Run directory; runs/NAME where left out.")] = None,
    set_: Sets = None,
    offline: Offline = False,
    locked: Annotated[bool, typer.Option("--locked", help="Refuse to run on anything else than the run directory's "
                                                          "lock.json says.")] = False,
    lock: Annotated[Path | None, typer.Option(help="The same with this lock.json, or that of this run.")] = None,
    json_: Json = False,
) -> None:
    """Train what a spec describes; go on where an earlier run of it stopped."""
    from llmspec.render.live import watcher
    from llmspec.training.run import run as train

    with failures(json_):
        loaded, plan = compiled(spec, set_)
        folder = out or RUNS / plan.name
        again = f"llmspec run {spec}" + "".join(f" --set '{s}'" for s in set_ or ()) + (f" --out {out}" if out else "")
        with watcher(again, aside=json_) as watch:
            done = train(plan, folder, files=written(loaded, set_), watcher=watch, offline=offline,
                         locked=lock or (folder if locked else None))
        if json_:
            from llmspec.explain.summary import run_summary

            print(json.dumps(run_summary(done, watch.taken), ensure_ascii=False, indent=1))


@app.command(epilog="Examples:  `llmspec sample --prompt 'What is a violin?'`  ·  "
                    "`llmspec sample runs/quickstart --prompt 'ROMEO' --n 4 --set decoding.temperature=0.5`")
def sample(
    run: RunPath = None,
    prompt: Annotated[str, typer.Option(help="What to answer (chat models) or to continue.")] = "",
    system: Annotated[str, typer.Option(help="What a chat model is told before the prompt.")] = "",
    n: Annotated[int, typer.Option(min=1, max=64, help="Number of answers.")] = 1,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same text.")] = None,
    plain: Annotated[bool, typer.Option("--plain", help="Continue the prompt as text, chat model or not.")] = False,
    set_: Sets = None,
    json_: Json = False,
) -> None:
    """Let a trained model write."""
    from llmspec.render import samples

    with failures(json_):
        model = opened(run)
        decoding = decoding_settings(model, set_)
        chat = model.chat and not plain
        turns: Any = [("system", system), ("user", prompt)] if chat and system else prompt
        if json_:
            answers = model.generate(turns, n=n, seed=seed, chat=chat, decoding=decoding)
            print(json.dumps(samples.as_data(model, prompt, answers), ensure_ascii=False, indent=1))
        else:
            samples.show(model, prompt, model.stream(turns, n=n, seed=seed, chat=chat, decoding=decoding), n, chat)


@app.command(epilog="Examples:  `llmspec explain specs/quickstart.yaml`  ·  `llmspec explain runs/quickstart`  ·  "
                    "`llmspec explain runs/quickstart --prompt 'What is a comet?'`  ·  "
                    "`llmspec explain specs/quickstart.yaml --part model.attention`  ·  "
                    "`llmspec explain A.yaml B.yaml`")
def explain(
    what: Annotated[Path | None, typer.Argument(metavar="[SPEC | RUN]", help="A spec or a run directory; the newest "
                                                                              "run where left out.")] = None,
    other: Annotated[Path | None, typer.Argument(metavar="[SPEC | RUN]", help="A second one: what differs, and "
                                                                               "what follows.")] = None,
    part: Annotated[str | None, typer.Option(help="One part of a spec in depth, such as model.attention.")] = None,
    exact: Annotated[bool, typer.Option("--exact", help="Ask the scheduled graphs for the memory of a spec.")] = False,
    time: Annotated[bool, typer.Option("--time", help="Measure this machine, and say how long a spec takes.")] = False,
    prompt: Annotated[str | None, typer.Option(help="Show how each token of an answer was chosen.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same text.")] = None,
    top: Annotated[int, typer.Option(min=1, max=20, help="Candidates shown for each token.")] = 5,
    set_: Sets = None,
    json_: Json = False,
) -> None:
    """Say what a spec will do, or what a run has done, or how a text was chosen."""
    with failures(json_):
        if what is not None and other is not None:
            report = explained_pair(what, other, set_)
        elif what is not None and (is_spec(what) or part is not None or exact or time):
            report = explained_spec(what, set_, part, exact, time)
        elif prompt is not None:
            from llmspec.explain.decoding import explain_prompt

            model = opened(what)
            report = explain_prompt(model, prompt, seed=seed, top=top, decoding=decoding_settings(model, set_))
        else:
            from llmspec.explain.run import explain_run
            from llmspec.runs.run import RunFolder

            report = explain_run(RunFolder.open(what) if what else RunFolder.latest(RUNS))
        if json_:
            print(json.dumps(report.as_data(), ensure_ascii=False, indent=1))
        else:
            from llmspec.render.reports import show

            show(report)


@app.command(epilog="Examples:  `llmspec check specs/quickstart.yaml`  ·  `llmspec check my.yaml --data`  ·  "
                    "`llmspec check my.yaml --device CUDA:sm_90 --set precision=bfloat16`")
def check(
    spec: SpecPath,
    set_: Sets = None,
    exact: Annotated[bool, typer.Option("--exact", help="Ask the scheduled graphs whether they fit.")] = False,
    data: Annotated[bool, typer.Option("--data", help="Read the data too, downloading what is missing.")] = False,
    graph: Annotated[bool, typer.Option("--graph", help="Build the model and see who influences whom in it.")] = False,
    time: Annotated[bool, typer.Option("--time", help="Measure this machine, and say how long phases take.")] = False,
    device: Annotated[str | None, typer.Option(metavar="GPU", help="Make every kernel for a GPU that need not be here: "
                                                                   "CUDA:sm_90, METAL.")] = None,
    json_: Json = False,
) -> None:
    """Find every problem of a spec before anything is spent. Exit status 2 where there are some."""
    from llmspec.core.units import size

    with failures(json_):
        from llmspec.compiler import pending, prove, refuse

        target = gpu(device) if device else None
        _, plan = compiled(spec, [*(set_ or ()), f"device={target.device}"] if target else set_)
        plan, shown = measured(plan, aside=json_) if data else (plan, pending(plan))
        proofs = (*prove(plan), *(graph_proofs(plan) if graph else ()), *shown)
        refuse(proofs)
        times = foretold(plan, time)
        peaks = {name: sum(items.values()) for name, items in scheduled(plan).items()} if exact else {}
        kernels = made_for(plan, target) if target else None
        if json_:
            about = {"name": plan.name, "parameters": plan.model.parameters, "phases": [p.name for p in plan.phases],
                     "proofs": [p.model_dump(mode="json") for p in proofs], **({"peaks": peaks} if exact else {}),
                     "times": {name: found.model_dump(mode="json") for name, found in times.items()},
                     **({"kernels": kernels.model_dump(mode="json")} if kernels else {})}
            print(json.dumps({"ok": True, "problems": [], **about}, ensure_ascii=False))
        else:
            from llmspec.render.proofs import show

            typer.echo(f"ok: {plan.name}, {plan.model.parameters:,} parameters, "
                       f"{len(plan.phases)} phase{'s' * (len(plan.phases) > 1)}"
                       + ("" if data else "; the data were not read (--data reads them)"))
            show(proofs)
            for name, peak in peaks.items():
                typer.echo(f"{name}: {size(peak)} at its peak, as scheduled")
            for found in times.values():
                typer.echo(found.sentence)
            if kernels:
                from llmspec.render.report_kernels import show as show_kernels

                show_kernels(kernels)


@app.command(epilog="Example:  `llmspec schema -o specs/schema.json`, and in a spec's first line "
                    "`# yaml-language-server: $schema=schema.json`")
def schema(
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Write it to this file.")] = None,
) -> None:
    """Print the JSON Schema of specs: editors complete, explain and check keys with it."""
    from llmspec.runs.files import write_text
    from llmspec.spec.json_schema import as_text

    with failures():
        if out:
            write_text(out, as_text())
        else:
            typer.echo(as_text(), nl=False)


@app.command(epilog="Examples:  `llmspec bench`  ·  `llmspec bench my.yaml --against torch --against transformers`  ·  "
                    "`llmspec bench --only machine`")
def bench(
    spec: Annotated[Path | None, typer.Argument(metavar="[SPEC]", help="A spec; by default the quickstart.")] = None,
    against: Annotated[list[str] | None, typer.Option(metavar="PEER", help="Compare with torch (training) or "
                                                                           "transformers (prefill, decode).")] = None,
    only: Annotated[list[str] | None, typer.Option(metavar="WORK", help="machine, train, prefill or decode.")] = None,
    phase: Annotated[str | None, typer.Option(help="The phase whose step is measured; the first by default.")] = None,
    rounds: Annotated[int, typer.Option(min=1, max=100, help="Times that every side is measured, in turns.")] = 3,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps timed in a round; some seconds' by default.")] = None,
    set_: Sets = None,
    json_: Json = False,
) -> None:
    """Measure this machine, and a spec's training and decoding on it, also beside other libraries."""
    with failures():
        from llmspec.bench.run import bench as measure
        from llmspec.bench.run import shipped
        from llmspec.render.report_bench import progress, show

        _, plan = compiled(spec or shipped(), set_)
        with progress() as say:
            report = measure(plan, only=only or (), against=against or (), phase=phase, rounds=rounds, steps=steps,
                             progress=say)
        if json_:
            print(report.model_dump_json())
        else:
            show(report)


# -- between arguments and calls ---------------------------------------------------------------------------------
def compiled(path: Path, overrides: list[str] | None) -> tuple[Reading, Plan]:
    """The spec and its plan. Raises SpecError with every problem, also those of one section beside a broken other."""
    from llmspec.compiler import check_sections, compile_spec
    from llmspec.core.problems import SpecError
    from llmspec.spec import read_spec

    reading = read_spec(path, overrides or ())
    problems = reading.sorted((*reading.problems, *check_sections(reading.sections)))
    if problems or reading.sections.spec is None:
        raise SpecError(problems)
    return reading, compile_spec(reading.sections.spec, base=str(path.parent.absolute()))


def gpu(text: str) -> Target:
    """The GPU that a person names. Raises SpecError."""
    from llmspec.core.targets import parse

    return parse(text)


def made_for(plan: Plan, target: Target) -> Made:
    """Every kernel of a plan, made for a GPU. Raises RunError naming those that do not compile."""
    from llmspec.core.problems import RunError
    from llmspec.model.elsewhere import make
    from llmspec.render.report_kernels import progress

    with progress(target.name) as say:
        found = make(plan, target, say)
    if problems := found.problems():
        raise RunError(problems)
    return found


def measured(plan: Plan, aside: bool) -> tuple[Plan, tuple[Proof, ...]]:
    """The plan with what its data say, and what they prove."""
    from llmspec.compiler import complete
    from llmspec.data.prepare import prepare
    from llmspec.render.live import watcher

    with watcher(aside=aside) as watch:
        prepared = prepare(plan, progress=watch.progress)
        return complete(plan, prepared.measured), prepared.proofs


def explained_spec(path: Path, overrides: list[str] | None, part: str | None = None, exact: bool = False,
                   time: bool = False) -> Any:
    """A spec's report, or that of one of its parts; with token counts where the data are already here."""
    from llmspec.explain.part import explain_part
    from llmspec.explain.spec import explain_plan

    plan, note, proofs, prepared = known_plan(path, overrides)
    if part is not None:
        return explain_part(plan, part)
    return explain_plan(plan, note, proofs, scheduled(plan) if exact else None, foretold(plan, time), prepared)


def explained_pair(first: Path, second: Path, overrides: list[str] | None) -> Any:
    """What differs between two specs or runs; token counts only where those of both are known: so keys compare."""
    from llmspec.explain.compare import explain_difference

    (a, a_note, *_), (b, b_note, *_) = known_plan(first, overrides), known_plan(second, overrides)
    if a_note or b_note:
        a, b = (compiled(path, overrides)[1] if is_spec(path) else plan for path, plan in ((first, a), (second, b)))
    return explain_difference(a, b, (str(first), str(second)), a_note or b_note)


def is_spec(path: Path) -> bool:
    """Whether a path is meant as a spec, and not as a run directory."""
    return path.is_file() or path.suffix in (".yaml", ".yml")


def known_plan(path: Path, overrides: list[str] | None) -> tuple[Plan, str, tuple[Proof, ...] | None, Any]:
    """The plan of a run; or of a spec, with proofs and data where these are already here, else a note on why."""
    if not is_spec(path):
        from llmspec.runs.run import RunFolder

        return RunFolder.open(path).plan(), "", None, None
    from llmspec.compiler import complete
    from llmspec.core.problems import DataError
    from llmspec.data.prepare import prepare

    _, plan = compiled(path, overrides)
    try:
        prepared = prepare(plan, offline=True)
    except DataError as e:
        return plan, f"token counts are missing: {e.problems[0].message}", None, None
    return complete(plan, prepared.measured), "", prepared.proofs, prepared


def scheduled(plan: Plan) -> dict[str, dict[str, int]]:
    """What the graphs of each phase would hold. Raises SpecError where that is more than the device has."""
    from llmspec.compiler.fit import over_limit
    from llmspec.core.problems import SpecError
    from llmspec.model.exact import exact

    found = exact(plan)
    if problems := over_limit(plan, {name: sum(items.values()) for name, items in found.items()}):
        raise SpecError(problems)
    return found


def foretold(plan: Plan, measure: bool) -> Mapping[str, Forecast]:
    """What phases are expected to take on this machine, by name; `measure` it first, or take what is known of it."""
    from llmspec.bench.pace import calibrate, expected

    if measure:
        calibrate(plan.device)
    return expected(plan)


def graph_proofs(plan: Plan) -> tuple[Proof, ...]:
    """What the built graph shows of the plan's masks."""
    from llmspec.model.influence import graph_proof

    return (graph_proof(plan),)


def written(loaded: Reading, overrides: list[str] | None) -> dict[str, str]:
    """The spec's texts by file name, and the overrides given beside them."""
    files: dict[str, str] = {}
    for path, text in loaded.files:
        name, number = path.name, 1
        while name in files:
            number += 1
            name = f"{path.stem}.{number}{path.suffix}"
        files[name] = text
    return {**files, "overrides.txt": "".join(f"{s}\n" for s in overrides)} if overrides else files


def opened(path: Path | None) -> Any:
    """The model of a run, the newest where none is named."""
    from llmspec.decoding.language_model import open_model
    from llmspec.runs.run import RunFolder

    model = open_model(path or RunFolder.latest(RUNS).path)
    for notice in model.notices:
        typer.echo(f"note: {notice}", err=True)
    return model


def decoding_settings(model: Any, sets: list[str] | None) -> Any:
    """The run's decoding settings with the overrides on top. Raises SpecError."""
    from llmspec.spec import override_decoding

    return override_decoding(model.plan.decoding, sets or ())


@contextmanager
def failures(as_json: bool = False) -> Iterator[None]:
    """A user's mistake is printed, never traced, `as_json` where machines read; 2 for mistakes, 130 for a stop that
    was asked for."""
    from llmspec.core.problems import LlmspecError

    try:
        yield
    except LlmspecError as e:
        if as_json:
            from dataclasses import asdict

            print(json.dumps({"ok": False, "problems": [asdict(p) for p in e.problems]}, ensure_ascii=False))
        else:
            from llmspec.render.problems import show

            show(e.problems)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        typer.echo("stopped", err=True)
        raise typer.Exit(130) from None
    except BrokenPipeError:
        sys.stderr.close()
        raise typer.Exit(0) from None
    except Exception as e:
        if known := explained_failure(e):
            status, text = known
            if text:
                typer.echo(text, err=True)
            raise typer.Exit(status) from None
        raise


def explained_failure(error: Exception) -> tuple[int, str] | None:
    """(exit status, text) of failures that are no SpecError but are no mystery either."""
    name, module = type(error).__name__, type(error).__module__
    if module.startswith("llmspec"):
        return (130, "") if name == "Interrupted" else (2, str(error))
    if module.startswith("pydantic"):
        lines = [f"{'.'.join(map(str, e['loc']))}: {e['msg']} (given: {e['input']!r})" for e in error.errors()]  # type: ignore[attr-defined]
        return 2, "\n".join(lines)
    return None


def main() -> None:
    app(prog_name="llmspec")
