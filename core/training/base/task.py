"""Training a base model from scratch: the task, and its export as a Hugging Face folder."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset

from megacontext.core.config.settings import check_fraction_sum
from megacontext.core.data.shards import open_shards
from megacontext.core.data.token_streams import TokenStreams
from megacontext.core.data.tokenizer import BOS, EOS, PAD, fingerprint, load_tokenizer
from megacontext.core.gistnet.gister import save_gistnet
from megacontext.core.training.base.dataset import (
    ANSWER,
    COPIED,
    FILLER,
    LOOKED_UP,
    PLAIN,
    SILENT,
    BaseDataset,
    Phase,
)
from megacontext.core.training.base.evaluate import BLOCK, HeldoutConfig, HeldoutSet, Mixed
from megacontext.core.training.common.gist_inputs import GistInputs
from megacontext.core.training.common.llama import (
    Llama,
    LlamaShape,
    hf_config,
    hf_state,
    load_hf_state,
)
from megacontext.core.training.loop import checkpoint
from megacontext.core.training.loop.distributed import DistributedContext, join_world
from megacontext.core.training.loop.run_task import run_task
from megacontext.core.training.loop.trainer import LoopConfig
from megacontext.traces.errors import ConfigError, ModelError

__all__ = ["BaseConfig", "BaseTask", "export_base", "judge_base", "load_weights", "train_base"]

_SHARD_BYTES = 13_500 * 1024


@dataclass(frozen=True)
class BaseConfig:
    """Everything a base model is made from.

    Attributes:
        tokenizer: folder with ``tokenizer.json``.
        shards: prepared training text; ``heldout``: prepared held-out text.
        freeze: parameters whose name starts with one of these stay as they are; ``embed`` keeps
            the space that gists live in, so a GistNet fits the base before and after.
        gistnet: folder of a GistNet whose gists stand in coarse windows, for phases with
            ``gists``; it fits only with ``embed`` frozen.
        train_gistnet: gradients reach that GistNet too; its index keys stay as they are.
        answer_weight: loss weight of answer tokens in recall text.
        first_weight: loss weight of the tokens that have to be looked up: an answer's first
            token (the others mostly follow from it by induction).
        text_weight: loss weight of the text around the facts. Below 1, text that comes round
            often is memorized less.
        copy_weight: loss weight of the tokens of plain text that copy from a block whose gist
            stands in the window; one in some hundred, and nearly all that a gist can foretell.
    """

    tokenizer: str
    shards: str
    heldout: str
    loop: LoopConfig
    phases: tuple[Phase, ...]
    model: LlamaShape = field(default_factory=LlamaShape)
    freeze: tuple[str, ...] = ()
    gistnet: str = ""
    train_gistnet: bool = False
    answer_weight: float = 3.0
    first_weight: float = 12.0
    text_weight: float = 1.0
    copy_weight: float = 1.0
    evaluation: HeldoutConfig = field(default_factory=HeldoutConfig)

    def __post_init__(self) -> None:
        check_fraction_sum(phase.share for phase in self.phases)
        wants = any(phase.gists for phase in self.phases)
        if wants != bool(self.gistnet):
            raise ConfigError(
                f"gistnet: {self.gistnet!r} does not go with phases.gists; name a folder and set "
                "the room for its gists, or neither."
            )

        # A GistNet fits only the embeddings that it was trained with.
        if self.gistnet and "embed" not in self.freeze:
            raise ConfigError(
                f"freeze: {list(self.freeze)} leaves the embeddings free, and gistnet would no "
                "longer fit them; add embed."
            )
        if self.train_gistnet and not self.gistnet:
            raise ConfigError(
                "train_gistnet: true names no network; set gistnet to a folder or leave it out."
            )

        # No row may be longer than the model's window.
        lengths = [*(phase.length for phase in self.phases), *self.evaluation.recall_lengths]
        if max(lengths) > self.model.window:
            raise ConfigError(
                f"phases.length: {max(lengths)} is above model.window {self.model.window}; "
                "raise the window or shorten the rows."
            )


def _weighted_nll(
    hidden_BTD: Tensor, head_VD: Tensor, targets_BT: Tensor, labels_BT: Tensor, weights_M: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(loss, and the NLL of text, answers and copies); ``weights`` by mark."""
    logits = functional.linear(hidden_BTD, head_VD).float()
    losses = functional.cross_entropy(logits.flatten(0, 1), targets_BT.flatten(), reduction="none")
    labels = labels_BT.flatten().int()
    weights = weights_M[labels]
    loss = (losses * weights).sum() / weights.sum()

    def mean(chosen: Tensor) -> Tensor:
        return (losses * chosen).sum() / chosen.sum().clamp(min=1)

    answer = (labels == ANSWER) | (labels == LOOKED_UP)
    return loss, mean(labels == PLAIN), mean(answer), mean(labels == COPIED)


class BaseTask:
    """Next-token prediction on the mixture of real and recall text."""

    eval_metric = "score"
    metric_names: Sequence[str] = ("text_nll", "answer_nll", "copy_nll")

    def __init__(self, config: BaseConfig, world: DistributedContext) -> None:
        # Batches are made in forked workers; the tokenizer's own threads would not survive that.
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        self.config, self.world = config, world
        self.tokenizer = load_tokenizer(Path(config.tokenizer))
        if self.tokenizer.get_vocab_size() > config.model.vocab_size:
            raise ConfigError(
                f"model.vocab_size: {config.model.vocab_size} is below the tokenizer's "
                f"{self.tokenizer.get_vocab_size()}; raise it."
            )

        # Training and held-out text, in this tokenizer's tokens.
        mark = fingerprint(self.tokenizer)
        self._streams = TokenStreams(open_shards(Path(config.shards), mark))
        heldout = open_shards(Path(config.heldout), mark)
        self.heldout = HeldoutSet(config.evaluation, heldout, self.tokenizer, config.loop.seed)
        self.eval_names = self.heldout.names

        # The model, and what a token's loss weighs by its mark.
        self.llama = Llama(config.model)
        self.llama.init_weights(config.loop.seed)
        self._freeze(config.freeze)
        self.llama.to(world.device)
        self.model: nn.Module = self.llama  # what is trained
        self._gists: GistInputs | None = None
        weights = {
            PLAIN: 1.0,
            ANSWER: config.answer_weight,
            LOOKED_UP: config.first_weight,
            SILENT: 0.0,
            FILLER: config.text_weight,
            COPIED: config.copy_weight,
        }
        self._weights = torch.tensor([weights[mark] for mark in sorted(weights)])
        self._weights = self._weights.to(world.device)
        self._nll = _weighted_nll
        if world.device.type == "cuda":
            self.llama.compile_layers()
            self._nll = torch.compile(_weighted_nll, dynamic=False)

    def _freeze(self, prefixes: Sequence[str]) -> None:
        for prefix in prefixes:
            chosen = [p for n, p in self.llama.named_parameters() if n.startswith(prefix)]
            if not chosen:
                raise ConfigError(
                    f"freeze: no parameter starts with {prefix!r}; name embed, norm or layers.N."
                )
            for parameter in chosen:
                parameter.requires_grad_(False)

    def phase_fractions(self) -> Sequence[float]:
        return [phase.share for phase in self.config.phases]

    def dataset(self, phase: int) -> Dataset[dict[str, Tensor]]:
        return BaseDataset(
            self.config.phases[phase],
            phase,
            self._streams,
            self.tokenizer,
            seed=self.config.loop.seed,
            rank=self.world.rank,
            world=self.world.size,
            accumulation=self.config.loop.accumulation,
        )

    def on_phase_start(self, phase: int) -> None:
        """All weights train in every phase."""

    @property
    def gists(self) -> GistInputs:
        """Made when first needed: by then the embeddings are those of ``init`` or of a resume."""
        if self._gists is None:
            folder, trained = Path(self.config.gistnet), self.config.train_gistnet
            self._gists = GistInputs(folder, self.llama.embed.weight, BLOCK, trained=trained)
        return self._gists

    def join_gistnet(self) -> None:
        """From here on the GistNet's weights are trained too."""
        self.model = nn.ModuleDict({"base": self.llama, "gistnet": self.gists.net})

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, Mapping[str, Tensor]]:
        tokens = batch["tokens"].long()
        if "places" in batch:
            hidden = _hidden_over_gists(
                self.llama, self.gists, tokens[:, :-1], batch["places"], batch["blocks"]
            )
        else:
            hidden = self.llama.hidden(tokens[:, :-1])
        loss, text, answer, copies = self._nll(
            hidden, self.llama.embed.weight, tokens[:, 1:], batch["marks"], self._weights
        )
        return loss, {"text_nll": text, "answer_nll": answer, "copy_nll": copies}

    def evaluate(self) -> dict[str, float]:
        gists = self.gists if self.config.gistnet else None
        return self.heldout.evaluate(self.llama, self.world.device, _mixed(self.llama, gists))


def _hidden_over_gists(
    model: Llama, gists: GistInputs, tokens_BT: Tensor, index_BT: Tensor, blocks_NC: Tensor
) -> Tensor:
    x_BTD = gists.mixed(model.embed(tokens_BT), index_BT, blocks_NC)
    return model.hidden_of(x_BTD)


def _mixed(model: Llama, gists: GistInputs | None) -> Mixed | None:
    """How the held-out set reads windows with gists in them; None: with tokens in their place."""
    if gists is None:
        return None
    return lambda *window: functional.linear(
        _hidden_over_gists(model, gists, *window), model.embed.weight
    )


def export_base(model: Llama, tokenizer_folder: Path, out: Path) -> None:
    """Write ``model`` as a bf16 Hugging Face Llama folder with its tokenizer, in files < 14 MiB."""
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = load_tokenizer(tokenizer_folder)
    special: dict[str, int] = {}
    for name, token in (("bos", BOS), ("eos", EOS), ("pad", PAD)):
        number = tokenizer.token_to_id(token)
        if number is None:
            raise ModelError(
                f"tokenizer: {tokenizer_folder} has no {token}; add it and train again."
            )
        special[name] = number
    checkpoint.write_json(out / "config.json", hf_config(model.shape, special))
    generation = {f"{name}_token_id": value for name, value in special.items()}
    checkpoint.write_json(out / "generation_config.json", {**generation, "do_sample": False})
    _save_shards({k: v.bfloat16().cpu() for k, v in hf_state(model).items()}, out)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if (tokenizer_folder / name).resolve() != (out / name).resolve():
            shutil.copyfile(tokenizer_folder / name, out / name)


def _save_shards(state: Mapping[str, Tensor], out: Path) -> None:
    groups: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, value in state.items():
        if size + value.nbytes > _SHARD_BYTES and groups[-1]:
            groups.append({})
            size = 0
        groups[-1][name] = value.contiguous()
        size += value.nbytes
    index: dict[str, str] = {}
    for number, group in enumerate(groups, 1):
        file = f"model-{number:05d}-of-{len(groups):05d}.safetensors"
        save_file(group, out / file, metadata={"format": "pt"})
        index.update(dict.fromkeys(group, file))
    total = sum(value.nbytes for value in state.values())
    listing = {"metadata": {"total_size": total}, "weight_map": index}
    checkpoint.write_json(out / "model.safetensors.index.json", listing)


def load_weights(model: Llama, folder: Path) -> None:
    """Start from an exported folder.

    Raises:
        ModelError: there are no safetensors weights in ``folder``.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelError(f"--init: {folder} holds no safetensors weights; name an exported model.")
    state = {name: value for file in files for name, value in load_file(file).items()}
    load_hf_state(model, state)


def read_shape(folder: Path) -> LlamaShape:
    """The shape in an exported folder's ``config.json``."""
    path = folder / "config.json"
    if not path.is_file():
        raise ModelError(f"--model: {path} does not exist; name an exported base model folder.")
    raw = json.loads(path.read_text(encoding="utf8"))
    return LlamaShape(
        dim=raw["hidden_size"],
        layers=raw["num_hidden_layers"],
        heads=raw["num_attention_heads"],
        kv_heads=raw["num_key_value_heads"],
        ffn=raw["intermediate_size"],
        vocab_size=raw["vocab_size"],
        window=raw["max_position_embeddings"],
        rope_theta=raw["rope_parameters"]["rope_theta"],
        norm_eps=raw["rms_norm_eps"],
    )


@torch.no_grad()
def judge_base(
    folder: Path,
    heldout: Path,
    config: HeldoutConfig,
    device: str = "auto",
    gistnet: Path | None = None,
) -> dict[str, float]:
    """Held-out figures of an exported base model, in float32.

    Args:
        gistnet: folder of the GistNet whose gists stand in coarse windows; tokens do without.
    """
    model = Llama(read_shape(folder))
    load_weights(model, folder)
    target_device = join_world(device).device
    tokenizer = load_tokenizer(folder)
    shards = open_shards(heldout, fingerprint(tokenizer))
    model.to(target_device).eval()
    gists = GistInputs(gistnet, model.embed.weight, BLOCK) if gistnet else None
    return HeldoutSet(config, shards, tokenizer).evaluate(
        model, target_device, _mixed(model, gists)
    )


def train_base(
    config: BaseConfig,
    out: Path,
    *,
    device: str = "auto",
    resume: bool = False,
    init: Path | None = None,
    export: Path | None = None,
) -> dict[str, float]:
    """Train by ``config``; checkpoints and metrics go to ``out``.

    Args:
        init: an exported model whose weights are the start.
        export: a folder that receives the model whenever it is judged best, and at the end; a
            GistNet that was trained with it goes to ``gistnet`` in there.

    Returns:
        The final held-out figures.
    """
    world = join_world(device)
    torch.set_float32_matmul_precision("high")
    if config.train_gistnet and init is None:
        raise ConfigError(
            "train_gistnet: true needs --init, the base model that the GistNet was trained for; a "
            "run that resumes names it again."
        )
    task = BaseTask(config, world)
    if init is not None:
        load_weights(task.llama, init)
    if config.train_gistnet:
        task.join_gistnet()

    def save_best(checkpoint_folder: Path) -> None:
        if export is None:
            return
        export_base(task.llama, Path(config.tokenizer), export)
        if config.train_gistnet:
            # The GistNet belongs to the embeddings as they are written, in bfloat16.
            written = task.llama.embed.weight.bfloat16().float()
            save_gistnet(task.gists.net, export / "gistnet", written)
        state = (checkpoint_folder / "state.json").read_text(encoding="utf8")
        checkpoint.write_json(export / "training.json", json.loads(state))

    return run_task(task, config.loop, out, world, resume=resume, export=save_best)
