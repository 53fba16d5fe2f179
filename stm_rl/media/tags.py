"""How texts refer to media: by a tag, as the prompts of vision-language models do.

A turn's media stand in its text as tags such as ``<image:a3f0c49d0e2b7715>``. Memory, window, contexts and caches
go on working with texts; encoders and models that know the :class:`MediaStore` look up what a tag stands for.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from stm_rl.errors import StmError
from stm_rl.features import TextEncoder
from stm_rl.media.encoder import Encoder
from stm_rl.transcript import Media, Transcript, Turn

TAG = re.compile(r"<(image|audio):([a-p]{16})>")


class MediaStore:
    """The features of media, found by the tags that stand for them.

    Each medium is encoded once, when its features are first asked for; only its features are kept after that.

    Args:
        encoders: The encoder of each kind of media.

    Attributes:
        dimension: Numbers that describe the media of a text: those of every encoder, side by side.
    """

    def __init__(self, encoders: Mapping[str, Encoder]) -> None:
        for kind, encoder in encoders.items():
            if encoder.kind != kind:
                raise StmError(f"the encoder {encoder.id} given for {kind} reads {encoder.kind}; give one for {kind}")
        self.encoders = dict(sorted(encoders.items()))
        self.dimension = sum(encoder.dimension for encoder in self.encoders.values())
        self.id = "+".join(encoder.id for encoder in self.encoders.values())
        self._waiting: dict[str, Media] = {}
        self._known: dict[str, NDArray[np.float32]] = {}
        self._lock = threading.Lock()  # the engine asks on a thread of its own

    def tagged(self, transcript: Transcript) -> Transcript:
        """Return the transcript with a tag for each medium at the end of its turn's text."""
        return replace(transcript, turns=tuple(self._tag(turn) for turn in transcript.turns))

    def _tag(self, turn: Turn) -> Turn:
        return replace(turn, text=" ".join([turn.text, *map(self.add, turn.media)])) if turn.media else turn

    def add(self, media: Media) -> str:
        """Return the tag that stands for a medium.

        Raises:
            StmError: There is no encoder of its kind, or its file cannot be read.
        """
        if media.kind not in self.encoders:
            raise StmError(f"a turn carries {media.kind}, for which there is no encoder; give one to MediaStore")
        tag = f"<{media.kind}:{_key(media)}>"
        with self._lock:
            if tag not in self._known:
                self._waiting[tag] = media
        return tag

    def features(self, tags: Sequence[str]) -> list[NDArray[np.float32]]:
        """Return the vector of each tag's medium, of its encoder's ``dimension``.

        Raises:
            StmError: A tag stands for no medium.
        """
        with self._lock:
            missing = dict.fromkeys(tag for tag in tags if tag not in self._known)
            for kind, encoder in self.encoders.items():
                new = [tag for tag in missing if tag in self._waiting and self._waiting[tag].kind == kind]
                if new:
                    vectors = encoder([self._waiting[tag] for tag in new])
                    self._known.update(zip(new, vectors, strict=True))
                    for tag in new:
                        del self._waiting[tag]
            if unknown := [tag for tag in tags if tag not in self._known]:
                raise StmError(f"a text refers to {unknown[0]}, which is not in the store; tag its transcript first")
            return [self._known[tag] for tag in tags]


class MediaText:
    """A text encoder's vector beside the features of the media that a text refers to.

    Several media of a kind are averaged; zeros stand where there are none.

    Args:
        text: Encodes the text without its tags.
        store: Knows what tags stand for.
    """

    def __init__(self, text: TextEncoder, store: MediaStore) -> None:
        self.text, self.store = text, store
        self.dimension = text.dimension + store.dimension
        self.id = f"{text.id}+{store.id}"

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return one vector per text, shape ``(n, dimension)``."""
        vectors = np.zeros((len(texts), self.dimension), np.float32)
        vectors[:, : self.text.dimension] = self.text([without_tags(text) for text in texts])
        found = [(row, match[1], match[0]) for row, text in enumerate(texts) for match in TAG.finditer(text)]
        features = self.store.features([tag for _, _, tag in found])
        start = self.text.dimension
        for kind, encoder in self.store.encoders.items():
            end = start + encoder.dimension
            count = np.zeros((len(texts), 1), np.float32)
            for (row, own, _), vector in zip(found, features, strict=True):
                if own == kind:
                    vectors[row, start:end] += vector
                    count[row] += 1
            vectors[:, start:end] /= np.maximum(count, 1)
            start = end
        return vectors


class TaggedTranscripts(Sequence[Transcript]):
    """Transcripts whose turns refer to their media by tags, tagged when asked for.

    Args:
        transcripts: Transcripts with media.
        store: Where the media go.
    """

    def __init__(self, transcripts: Sequence[Transcript], store: MediaStore) -> None:
        self.transcripts, self.store = transcripts, store

    def __len__(self) -> int:
        return len(self.transcripts)

    def __iter__(self) -> Iterator[Transcript]:
        return map(self.store.tagged, self.transcripts)

    @overload
    def __getitem__(self, index: int) -> Transcript: ...
    @overload
    def __getitem__(self, index: slice) -> list[Transcript]: ...
    def __getitem__(self, index: int | slice) -> Transcript | list[Transcript]:
        """Return the transcript (or the list of transcripts) at ``index``."""
        found = self.transcripts[index]
        return self.store.tagged(found) if isinstance(found, Transcript) else [self.store.tagged(one) for one in found]


def without_tags(text: str) -> str:
    """Return a text without its tags and the spaces before them."""
    return re.sub(r" ?" + TAG.pattern, "", text)


def _key(media: Media) -> str:
    """Return letters made of a medium's content (letters only, so that no feature takes them for a number)."""
    if media.array is not None:
        content = f"{media.array.shape} {media.rate} ".encode() + media.array.tobytes()
    else:
        try:
            content = Path(media.path).read_bytes()
        except OSError as error:
            raise StmError(f"cannot read {media.path} ({error.strerror or error}); check the path") from error
    digest = blake2b(content, digest_size=8).hexdigest()
    return digest.translate(str.maketrans("0123456789abcdef", "abcdefghijklmnop"))
