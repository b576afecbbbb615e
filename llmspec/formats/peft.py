"""PEFT's folders of adapters (huggingface/peft): adapter_config.json and adapter_model.safetensors, read and written.

Shape letters: O outputs, I inputs of a layer, R rank.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from pydantic import ValidationError

from llmspec.compiler.linear_layers import adaptable, beside, without_adapter
from llmspec.compiler.plan import ModelPlan, Plan
from llmspec.core.problems import Problem, RunError
from llmspec.formats.hf.names import groups
from llmspec.formats.hf.weights import Files
from llmspec.formats.hf.writing import config_of
from llmspec.formats.last_model import model_in
from llmspec.parts.adapters.lora import MAGNITUDE, NORM, A, B, LoRA
from llmspec.parts.heads.labels import Labelled
from llmspec.parts.heads.score import Score
from llmspec.parts.sources.base import Attribution
from llmspec.runs import tensors
from llmspec.runs.files import new_folder, read_json, write_json, write_text
from llmspec.runs.stored import StoredModel, said

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
BEFORE = "base_model.model."
"""What names of tensors begin with."""
NAMES: Mapping[str, str] = {A: "lora_A.weight", B: "lora_B.weight", MAGNITUDE: "lora_magnitude_vector"}
"""Our name of a tensor beside a layer -> PEFT's."""
KEYS: Mapping[str, str] = {"r": "r", "alpha": "lora_alpha", "rslora": "use_rslora", "dora": "use_dora"}
"""Our key of the adapter -> PEFT's."""
ASIDE = frozenset(
    [
        "task_type",
        "auto_mapping",
        "peft_version",
        "revision",
        "inference_mode",
        "lora_dropout",
        "init_lora_weights",
        "layers_pattern",
        "layers_to_transform",
        "exclude_modules",
        "megatron_core",
        "runtime_config",
        "loftq_config",
        "target_modules",
        "fan_in_fan_out",
        "qalora_group_size",
    ]
)
"""Fields that change nothing of what is computed with the tensors that are there."""
READ = frozenset({"peft_type", "base_model_name_or_path", *KEYS.values()})


class Module(NamedTuple):
    """A linear layer as transformers has it: its name there, and where our rows lie in its."""

    name: str
    rows: Any
    """Our row of each of its rows; None where they lie alike."""


def modules(model: ModelPlan, origin: str = "") -> dict[str, Module]:
    """The linear layers of a model that are layers of their own in transformers, by our names. `origin`: the family
    that is tried first. Raises RunError where no family has such a model."""
    import numpy as np

    config, found = config_of(model, origin), dict[str, Module]()
    layers = {f"{layer}.weight" for layer in adaptable(model)}
    for group in groups(config.family, config.of, model):
        (name, shape), (theirs, _) = group.ours[0], group.theirs[0]
        if name not in layers or len(group.ours) + len(group.theirs) > 2:
            continue
        numbers = np.arange(shape[0])
        joined = np.asarray(group.join([np.broadcast_to(numbers[:, None], shape)])[0])
        rows = joined[:, 0]
        if joined.shape != shape or sorted(rows.tolist()) != numbers.tolist():
            continue  # which lies with its inputs first: PEFT names and turns its tensors otherwise
        module = theirs.removesuffix(".weight")
        found[name.removesuffix(".weight")] = Module(module, None if (rows == numbers).all() else rows)
    return found


# -- writing -----------------------------------------------------------------------------------------------------------
def write(path: Path, model: ModelPlan, weights: Mapping[str, Any], base: str, origin: str = "", card: str = "") -> int:
    """Writes the adapter of a model into a new folder, aside and renamed once it is whole; returns its layers' number.

    `base` is what its model is called. Raises RunError for an adapter that PEFT has no form for, for layers that are no
    layers of their own in transformers, and where the folder cannot be written.
    """
    adapter = model.adapter
    if not isinstance(adapter, LoRA):
        raise RunError(f"PEFT's format is written of adapters of the kind lora, not {adapter and adapter.kind}")
    if labelled := [name for name, head in model.heads.items() if isinstance(head, Labelled | Score)]:
        raise RunError(
            f"PEFT's adapters are written of models without a head of labels, and this one ends in {labelled[0]}",
            hint="llmspec merge RUN --out DIR, and export that",
            consequence="the head, which is no part of the adapter, would be left out",
        )
    known, made, names = modules(without_adapter(model), origin), dict[str, Any](), list[str]()
    layers = [t.removesuffix(f".{A}") for t in weights if t.endswith(f".{A}")]
    if other := [layer for layer in layers if layer not in known]:
        raise RunError(
            f"{len(other)} adapted layers are no layers of their own in transformers, {other[0]} first",
            hint="llmspec merge RUN --out DIR, and export that",
            consequence="PEFT could not put the adapter beside them",
        )
    for layer in layers:
        name, rows = known[layer]
        names.append(name)
        for own, theirs in NAMES.items():
            if (array := weights.get(f"{layer}.{own}")) is not None:
                made[f"{BEFORE}{name}.{theirs}"] = array if rows is None or own == A else array[rows]
    with new_folder(path) as aside:
        write_json(aside / CONFIG, _config(adapter, targets(names, [m.name for m in known.values()]), base))
        tensors.write(aside / WEIGHTS, made, {"format": "pt"})
        write_text(aside / "README.md", card)
    return len(layers)


def _config(adapter: LoRA, target_modules: list[str], base: str) -> dict[str, Any]:
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "inference_mode": True,
        "bias": "none",
        "fan_in_fan_out": False,
        "lora_dropout": adapter.dropout,
        "modules_to_save": None,
        "target_modules": target_modules,
        **{theirs: getattr(adapter, own) for own, theirs in KEYS.items()},
    }


def targets(adapted: list[str], every: list[str]) -> list[str]:
    """`target_modules`: the last words of the names, where all layers of these words are adapted, else whole names."""
    last = {name.rpartition(".")[2] for name in adapted}
    whole = all(name in adapted for name in every if name.rpartition(".")[2] in last)
    return sorted(last if whole else set(adapted))


# -- reading -----------------------------------------------------------------------------------------------------------
class PEFTFolder(StoredModel):
    """A folder of PEFT beside its model. Nothing in it is believed."""

    again: ClassVar[str] = "download the folder again"

    def __init__(self, path: Path, opened: Callable[[Path], StoredModel | None]) -> None:
        """`opened` opens the folder, or the file, of the model that it stands beside; None where that is none."""
        super().__init__(path)
        self._opened = opened

    @cached_property
    def config(self) -> dict[str, Any]:
        """adapter_config.json. Raises RunError with everything in it that is not understood."""
        path, found = self.path / CONFIG, read_json(self.path / CONFIG)
        if not isinstance(found, dict):
            raise RunError(f"{path} is damaged: it holds no map")
        problems = []
        if found.get("peft_type") != "LORA":
            problems.append(Problem(f"{path} is an adapter of the kind {found.get('peft_type')!r}: only LORA is read"))
        if found.get("bias", "none") != "none":
            problems.append(Problem(f"{path}: `bias` is {found['bias']!r}; biases beside an adapter are not read"))
        known = {*READ, *ASIDE, "bias"}
        problems += [
            Problem(f"{path}: `{key[:80]}` is not understood", hint="merge it with PEFT, and import that model")
            for key, value in found.items()
            if key not in known and value
        ]
        if problems:
            raise RunError(problems)
        return found

    @cached_property
    def adapter(self) -> LoRA:
        """The adapter that the files say. Raises RunError."""
        said_of = {own: self.config[theirs] for own, theirs in KEYS.items() if theirs in self.config}
        try:
            return LoRA.model_validate({**said_of, "targets": tuple(sorted(self.layers))})
        except ValidationError as error:
            raise RunError(f"{self.path / CONFIG}: {said(error)}") from None

    @cached_property
    def model(self) -> StoredModel:
        """The model that it stands beside. Raises RunError where that is not here."""
        name = self.config.get("base_model_name_or_path")
        for path in (self.path / str(name), Path(str(name)).expanduser()) if name else ():
            if not is_peft(path) and (found := self._opened(path)) is not None:
                return found
        raise RunError(
            f"{self.path} is an adapter beside {name!r}, which is no model on this machine",
            hint=f"write the path of that model's folder as `base_model_name_or_path` into {self.path / CONFIG}",
            consequence="an adapter means nothing without its model",
        )

    @cached_property
    def _of(self) -> tuple[str | None, ModelPlan]:
        return model_in(self.model, self.model.plan())

    @property
    def origin(self) -> str:
        """The mapping table of its model."""
        return getattr(self.model, "origin", "") or getattr(getattr(self.model, "notes", None), "origin", "")

    @cached_property
    def files(self) -> Files:
        """The tensors in the file. Raises RunError."""
        return _AdapterFiles(self.path)

    @cached_property
    def layers(self) -> dict[str, Module]:
        """The layers that it adapts, by our names. Raises RunError with tensors that belong to none."""
        known = {module.name: (layer, module) for layer, module in modules(self._of[1], self.origin).items()}
        found, other = dict[str, Module](), list[str]()
        for tensor in self.files.entries:
            ending = next((e for e in NAMES.values() if tensor.endswith(f".{e}")), None)
            name = tensor.removeprefix(BEFORE).removesuffix(f".{ending}")
            if ending is None or name not in known:
                other.append(tensor)
                continue
            layer, module = known[name]
            found[layer] = module
        if other or not found:
            which = f"{other[0][:120]}, and {len(other) - 1} more" if other else "it holds no tensor"
            raise RunError(
                f"{self.path / WEIGHTS} adapts what {self.model.path} has not: {which}",
                hint="is it the adapter of this model? `base_model_name_or_path` says which it belongs to",
                consequence="some of what was learned would be left out",
            )
        return found

    def plan(self) -> Plan:
        model = beside(self._of[1], self.adapter)
        return self.model.plan().model_copy(update={"model": model, "phases": (), "sources": ()})

    def weights(self, plan: Plan, phase: str | None = None) -> tuple[str, dict[str, Any], list[str]]:
        import numpy as np

        from llmspec.core.quantised import as_float32

        name, found, notices = self.model.weights(self.model.plan(), self._of[0])
        shapes, wrong = {t.name: t.shape for t in plan.model.tensors}, list[str]()
        for layer, module in self.layers.items():
            for own, theirs in NAMES.items():
                tensor, ours = f"{BEFORE}{module.name}.{theirs}", f"{layer}.{own}"
                if ours not in shapes:
                    continue
                entry = self.files.entries.get(tensor)
                if entry is None or entry[1].shape != shapes[ours]:
                    wrong.append(f"{tensor} is {'missing' if entry is None else list(entry[1].shape)}")
                    continue
                array = self.files.float32(tensor)
                if module.rows is not None and own != A:
                    array = array[np.argsort(module.rows)]
                found[ours] = np.array(array)
            if self.adapter.dora:
                found[f"{layer}.{NORM}"] = self.adapter.fitted(as_float32(found[f"{layer}.weight"]))[NORM]
        if wrong:
            raise RunError(
                f"{self.path / WEIGHTS} is not what {CONFIG} says: {'; '.join(wrong[:4])}",
                hint="download the folder again, whole",
            )
        return name, found, notices

    def tokenizer(self, plan: Plan) -> Any:
        return self.model.tokenizer(self.model.plan())

    def unfit(self, plan: Plan) -> str:
        return ""

    def tokenizer_again(self) -> str:
        return self.again

    def tokenizer_noted(self) -> tuple[str, str | None]:
        return CONFIG, None

    def chat(self, plan: Plan, phase: str) -> bool:
        return self.model.chat(self.model.plan(), phase)

    def attributions(self, plan: Plan) -> tuple[Attribution, ...]:
        return self.model.attributions(self.model.plan())


class _AdapterFiles(Files):
    def _shards(self) -> list[str]:
        self._index: dict[str, str] = {}
        if not (self.folder / WEIGHTS).exists():
            raise RunError(f"{self.folder} has no {WEIGHTS}", hint="give the folder with the adapter's tensors")
        return [WEIGHTS]


def is_peft(path: Path) -> bool:
    """Whether a path is a folder that PEFT wrote, without a model of its own."""
    return path.is_dir() and (path / CONFIG).is_file() and not (path / "config.json").exists()
