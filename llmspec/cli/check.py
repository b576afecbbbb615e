"""`llmspec check`: finds every problem of a spec before anything is spent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmspec.api import checked, compiled, kernels_for, measured
from llmspec.cli.arguments import Json, Sets, SpecPath

if TYPE_CHECKING:
    from llmspec.compiler.checks import Check
    from llmspec.compiler.plan import Plan

EXAMPLES = (
    "Examples:  `llmspec check quickstart`  ·  `llmspec check my.yaml --data`  ·  "
    "`llmspec check my.yaml --device CUDA:sm_90 --set precision=bfloat16`"
)


def check(
    spec: SpecPath,
    set_: Sets = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="Check memory on the scheduled graphs instead of by formula.")
    ] = False,
    data: Annotated[bool, typer.Option("--data", help="Read the data too, downloading what is missing.")] = False,
    graph: Annotated[
        bool, typer.Option("--graph", help="Build the model and test which tokens influence which outputs.")
    ] = False,
    time: Annotated[
        bool, typer.Option("--time", help="Measure this machine and estimate how long each phase takes.")
    ] = False,
    device: Annotated[
        str | None,
        typer.Option(metavar="GPU", help="Compile every kernel for a GPU, present or not: CUDA:sm_90, METAL."),
    ] = None,
    json_: Json = False,
) -> Any:
    """Find every problem in a spec before any time is spent on training. Exit status 2 if there are any."""
    from llmspec.core.targets import parse
    from llmspec.render.waiting import waiting

    target = parse(device) if device else None
    with waiting("opening the model", lines=data) as say:
        sets = [*(set_ or ()), f"device={target.device}"] if target else set_
        loaded, plan = compiled(spec, sets, not data, lambda what, done, total: say(what))

    def reading(plan: Plan) -> tuple[Plan, tuple[Check, ...], tuple[str, ...]]:
        from llmspec.render.live import watcher

        with watcher(aside=json_) as watch:
            return measured(plan, watch.progress, watch.notice)

    found = checked(loaded, plan, data=reading if data else None, graph=graph, time=time, exact=exact)
    kernels = None
    if target:
        from llmspec.render.report_kernels import progress

        with progress(target.name) as say:
            kernels = kernels_for(found.plan, target, say)
    if json_:
        return {
            "ok": True,
            "problems": [],
            **found.as_data(),
            **({"peaks": found.peaks} if exact else {}),
            **({"kernels": kernels.model_dump(mode="json")} if kernels else {}),
        }
    from llmspec.render import checks

    times = [expected.sentence for expected in found.times.values()]
    times += [f"decoding: {found.decoding.sentence}"] if found.decoding else []
    checks.checked(found.plan, found.checks, found.peaks, times, data, found.notices)
    if kernels:
        from llmspec.render.report_kernels import show

        show(kernels)
