"""What requests and answers look like; the OpenAPI description is made of this."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

SESSION_PATTERN = r"^[A-Za-z0-9._-]{1,128}$"
"""What the id of a session looks like."""
SessionId = Annotated[str, StringConstraints(pattern=SESSION_PATTERN)]
Short = Annotated[str, StringConstraints(min_length=1, max_length=128)]


class Strict(BaseModel):
    """A part of a request; what it does not know is an error."""

    model_config = ConfigDict(extra="forbid")


class TextPart(Strict):
    """A part of a message; only text is understood."""

    type: Literal["text"]
    text: str


class ChatMessage(Strict):
    """A message of a chat; ``name`` is who speaks, if not the role."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: Short | None = None
    refusal: None = None

    @property
    def text(self) -> str:
        """The text of all parts."""
        return self.content if isinstance(self.content, str) else "\n".join(part.text for part in self.content)


class StreamOptions(Strict):
    """How an answer is streamed."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class ChatRequest(Strict):
    """OpenAI's request for a chat completion, with ``session_id`` and ``memory``."""

    model: Short
    messages: list[ChatMessage] = Field(min_length=1)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    session_id: SessionId | None = None
    memory: bool = True
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    max_tokens: int | None = Field(None, ge=1, le=2**31 - 1)
    max_completion_tokens: int | None = Field(None, ge=1, le=2**31 - 1)
    seed: int | None = Field(None, ge=-(2**63), le=2**63 - 1)
    stop: Short | list[Short] | None = Field(None)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    reasoning_effort: Short | None = None
    response_format: dict[str, Any] | None = None
    user: Short | None = None
    n: Literal[1] | None = None
    store: Literal[False] | None = None
    metadata: dict[str, str] | None = None


class Record(BaseModel):
    """Part of an answer."""


class ErrorDetail(Record):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorBody(Record):
    """OpenAI's error."""

    error: ErrorDetail


class MemoryReport(Record):
    """What the memory did in a request."""

    session: str
    turns: int
    operations: list[dict[str, Any]]
    slots: list[dict[str, Any] | None]
    tokens_sent: int
    tokens_full_history: int
    reads: list[str]
    left_out: int


class AnswerMessage(Record):
    """What the model wrote."""

    role: Literal["assistant"]
    content: str
    refusal: None = None


class Choice(Record):
    """The only choice."""

    index: int
    message: AnswerMessage
    logprobs: None = None
    finish_reason: str


class Usage(Record):
    """Tokens of the request that the model was sent."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatAnswer(Record):
    """OpenAI's chat completion, with ``memory``."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    memory: MemoryReport


class SessionEntry(Record):
    """A session in the list; times are seconds since 1970."""

    id: str
    turns: int
    created: float
    used: float


class SessionPage(Record):
    """A page of the list of sessions, by id."""

    object: Literal["list"] = "list"
    data: list[SessionEntry]
    has_more: bool


class Line(Record):
    """A turn of the window."""

    speaker: str
    text: str


class MemoryView(Record):
    """What a session holds."""

    session: str
    turns: int
    slots: list[dict[str, Any] | None]
    window: list[Line]


class Deleted(Record):
    """What was deleted."""

    session: str
    deleted: bool


class ModelEntry(Record):
    """The model that answers."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str


class ModelList(Record):
    """OpenAI's list of models."""

    object: Literal["list"] = "list"
    data: list[ModelEntry]


class Health(Record):
    """Whether the server is well."""

    status: str
