"""The verbs: arguments -> one call -> render. Nothing heavy is imported before a verb needs it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from llmspec.asked import (
    RUNS,
    compiled,
    decoding_settings,
    explained_pair,
    explained_spec,
    failures,
    foretold,
    gpu,
    graph_proofs,
    is_spec,
    made_for,
    measured,
    opened,
    scheduled,
    written,
)

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode="markdown", add_completion=False, pretty_exceptions_enable=False,
    help="One YAML file holds the whole life of a language model: architecture, tokenizer, data, training, "
         "decoding.\n\nStart with `llmspec run quickstart`, then `llmspec sample` and `llmspec explain`.",
)

SpecPath = Annotated[Path, typer.Argument(metavar="SPEC", help="A spec: a file, or the name of a shipped one, such as "
                                                               "quickstart.")]
RunPath = Annotated[Path | None, typer.Argument(metavar="[RUN]", help="A run directory; the newest where left out.")]
Sets = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE",
                                                help="Override a key, e.g. phases.pretrain.optimizer.lr=3e-4.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Offline = Annotated[bool, typer.Option("--offline", help="Download nothing; fail where a source is not cached.")]


@app.command(epilog="Examples:  `llmspec run quickstart`  ·  "
                    "`llmspec run quickstart --set phases.pretrain.budget='3M tokens' --out runs/longer`")
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
        given = [*(f"--set '{s}'" for s in set_ or ()), f"--out {out}" if out else "", "--offline" if offline else "",
                 "--locked" if locked else "", f"--lock {lock}" if lock else "", "--json" if json_ else ""]
        again = " ".join(["llmspec run", str(spec), *filter(None, given)])
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


@app.command(epilog="Examples:  `llmspec explain quickstart`  ·  `llmspec explain runs/quickstart`  ·  "
                    "`llmspec explain runs/quickstart --prompt 'What is a comet?'`  ·  "
                    "`llmspec explain quickstart --part model.attention`  ·  "
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


@app.command(epilog="Examples:  `llmspec check quickstart`  ·  `llmspec check my.yaml --data`  ·  "
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
        from llmspec.render.report_bench import progress, show

        _, plan = compiled(spec or Path("quickstart"), set_)
        with progress() as say:
            report = measure(plan, only=only or (), against=against or (), phase=phase, rounds=rounds, steps=steps,
                             progress=say)
        if json_:
            print(report.model_dump_json())
        else:
            show(report)


def main() -> None:
    app(prog_name="llmspec")
