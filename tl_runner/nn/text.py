"""Text encoders of transformers, and their tokenizers."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from .. import tokens
from ..errors import DataError, UserError, reason

log = logging.getLogger(__name__)

Pooling = Literal["mean", "cls"]


class Encoder(nn.Module):
    """A transformer that reads texts (`tokens`), (S, L) int32 -> (N, D): a row for each mark.

    A word's features are those of the token that is marked, its first. A whole text's are the mean over its tokens,
    special ones included, or those of its first.

    On a CPU the texts of a batch are run in groups of similar length, each as long as its longest: the rows of a
    batch, and their order, stay what was drawn.

    Args:
        net: of transformers; its `last_hidden_state` is (S, L, D).
        pooling: `mean` or `cls`, of whole texts.
    """

    GROUP = 8
    """Texts of similar length that run together on a CPU."""

    def __init__(self, net: nn.Module, num_features: int, pooling: Pooling) -> None:
        super().__init__()
        self.net, self.num_features, self.pooling = net, num_features, pooling

    def extra_repr(self) -> str:  # Part of the fingerprint that cached features are kept by.
        return f"pooling={self.pooling}"

    def forward(self, x: Tensor) -> Tensor:
        present, marks = x > 0, tokens.marked(x)
        lengths = present.sum(1)
        number = marks.flatten().cumsum(0).view_as(marks) - 1
        found, rows = [], []
        by_length = lengths.argsort(stable=True)
        for group in torch.split(by_length, len(x) if x.is_cuda else self.GROUP):
            longest = int(lengths[group].max())
            part, here = x[group, :longest], marks[group, :longest]
            mask = present[group, :longest]
            ids = tokens.ids(part).clamp_min(0)
            hidden = self.net(input_ids=ids, attention_mask=mask.long()).last_hidden_state
            if self.pooling == "mean" and bool((part[:, 0] % 4 == tokens.WHOLE).any()):
                share = (mask / mask.sum(1, keepdim=True)).to(hidden.dtype)
                hidden = torch.einsum("sl,sld->sd", share, hidden)[:, None].expand_as(hidden)
            found.append(hidden[here])
            rows.append(number[group, :longest][here])
        return torch.cat(found)[torch.cat(rows).argsort()]


def hf(
    name: str,
    weights: Literal["pretrained", "none"] = "pretrained",
    pooling: Pooling = "mean",
    shape: tuple[int, ...] = (256, 30522),
) -> Encoder:
    """Any encoder of transformers.

    Args:
        name: on the Hugging Face hub, a folder, or `package:NAME` for an installed package that carries one.
        weights: `none` takes the architecture alone, untrained.
        pooling: what stands for a whole text: the mean over its tokens, or its first (`cls`).
        shape: (L, V), tokens of a text at most, and how many the tokenizer knows.

    Raises:
        UserError: for samples that are no texts, and a model that is not to be had or takes no such texts.
    """
    if len(shape) != 2:
        raise UserError(
            f"model {name} reads texts, and this data has samples of shape {shape}: choose another model"
        )
    need("transformers")
    from transformers import AutoConfig, AutoModel
    from transformers.utils import logging as theirs

    theirs.disable_progress_bar()  # type: ignore[no-untyped-call]
    place = located(name)
    try:
        config = AutoConfig.from_pretrained(place)
        if weights == "none":
            net = AutoModel.from_config(config)  # type: ignore[no-untyped-call]
        else:
            net = AutoModel.from_pretrained(place, dtype=torch.float32)
    except (OSError, ValueError, ImportError) as error:
        raise _unreachable(name, error) from error
    if config.is_encoder_decoder:
        raise UserError(f"model.name: {name} also writes texts; choose an encoder such as bert-base-cased")
    length, vocabulary = shape
    offset = 2 if "roberta" in config.model_type or config.model_type == "camembert" else 0
    longest = getattr(config, "max_position_embeddings", None) or length + offset
    if longest - offset < length:
        raise UserError(f"data.max_length={length}: {name} reads texts of at most {longest - offset} tokens")
    if config.vocab_size < vocabulary:
        raise UserError(
            f"{name} knows {config.vocab_size} tokens, and the data's tokenizer {vocabulary}: "
            "set model.name, not data.tokenizer"
        )
    if getattr(net, "pooler", None) is not None:
        net.pooler = None  # It would train for nothing: features are taken before it.
    return Encoder(net, config.hidden_size, pooling)


def located(name: str) -> str:
    """The folder of a model: `package:NAME`'s, or a path; another name as it is, for the hub.

    Raises:
        DataError: if there is no such package, or it carries no model.
    """
    if not name.startswith("package:"):
        path = Path(name).expanduser()
        if path.is_dir():
            return str(path)
        if name.startswith((".", "/", "~")):
            raise DataError(
                f"model.name: no folder '{path}'; expected a name on the hub, a folder, or package:NAME"
            )
        return name
    package = name.removeprefix("package:")
    spec = importlib.util.find_spec(package.replace("-", "_"))
    if spec is None or spec.origin is None:
        raise DataError(
            f"model.name: package '{package}' is not installed; pip install 'tl-runner[text]', or {package}"
        )
    found = sorted(f.parent for f in Path(spec.origin).parent.rglob("tokenizer.json"))
    if len(found) != 1:
        raise DataError(
            f"model.name: package '{package}' carries {len(found)} models (tokenizer.json), expected one"
        )
    return str(found[0])


class Tokenizer:
    """What cuts texts into the tokens that an encoder knows.

    Args:
        name: as for `hf`.

    Attributes:
        vocabulary: how many tokens it knows. fingerprint: of all that says how it cuts.

    Raises:
        UserError: if it is not to be had.
    """

    def __init__(self, name: str) -> None:
        need("tokenizers")
        from tokenizers import Tokenizer as Core

        place = located(name)
        file = Path(place) / "tokenizer.json"
        try:
            if file.is_file():  # Without transformers, which takes seconds to import.
                core = Core.from_file(str(file))
            else:
                from transformers import AutoTokenizer

                core = AutoTokenizer.from_pretrained(place).backend_tokenizer
        except Exception as error:  # tokenizers raises plain ones
            raise _unreachable(name, error) from error
        core.no_padding()
        core.no_truncation()
        self.core = core
        self.vocabulary: int = core.get_vocab_size()
        self.fingerprint = hashlib.sha256(core.to_str().encode()).hexdigest()
        self.unknown: str | None = getattr(core.model, "unk_token", None)

    def texts(self, texts: Sequence[str], length: int) -> npt.NDArray[np.int32]:
        """(S, length) as `tokens` has it, the whole text marked; what is longer is cut."""
        self.core.enable_truncation(length)
        found = np.zeros((len(texts), length), np.int32)
        for row, encoding in zip(found, self.core.encode_batch(list(texts)), strict=True):
            row[: len(encoding.ids)] = 4 * (np.array(encoding.ids) + 1)
            row[0] += tokens.WHOLE
        return found

    def words(self, sentences: Sequence[Sequence[str]], length: int) -> npt.NDArray[np.int32]:
        """(S, length) as `tokens` has it, every word marked; those beyond the length are missing."""
        self.core.enable_truncation(length)
        if hasattr(self.core.pre_tokenizer, "add_prefix_space"):
            self.core.pre_tokenizer.add_prefix_space = True  # A word is one wherever it stands.
        found = np.zeros((len(sentences), length), np.int32)
        encodings = self.core.encode_batch([list(s) for s in sentences], is_pretokenized=True)
        for row, sentence, encoding in zip(found, sentences, encodings, strict=True):
            last = max((w for w in encoding.word_ids if w is not None), default=-1)
            if vanished := set(range(last + 1 if encoding.overflowing else len(sentence))) - set(
                encoding.word_ids
            ):
                # Of signs that the tokenizer drops, such as a soft hyphen alone.
                known = [self.unknown or "?" if i in vanished else w for i, w in enumerate(sentence)]
                encoding = self.core.encode(known, is_pretokenized=True)
            words = [-1 if w is None else w for w in encoding.word_ids]
            first = np.array([w >= 0 and w != before for w, before in zip(words, [-1, *words], strict=False)])
            row[: len(words)] = 4 * (np.array(encoding.ids) + 1) + tokens.WORD * first
        return found


def need(package: str) -> None:
    """Complain of a package of the extra that is not installed.

    Raises:
        UserError: naming it and the extra.
    """
    # Batches are prepared in threads, and its own are not wanted beside them.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if importlib.util.find_spec(package) is None:
        raise UserError(f"texts need {package}, which is not installed: pip install 'tl-runner[text]'")


def _unreachable(name: str, error: Exception) -> UserError:
    return UserError(
        f"model.name: '{name}' could not be had ({reason(error)[:160]}); give the name of a model on the hub, "
        "a folder that holds one, or package:NAME; model=minilm needs no network"
    )
