"""Fields of other servers, and older ones of OpenAI's, that are refused with what to give instead.

`docs/coming_from.md` is held to this table by a test.
"""

from __future__ import annotations

_SCHEMA = 'give constraint: {"json_schema": {...}}'
_NO_SUFFIX = "text is only continued at its end; drop it"
_ONE_WAY = "every answer is sampled token by token; give n for several answers, or temperature 0 for the most likely tokens"
_OWN = "write it as a sampling parameter of your own and give it in extra (examples/sampling_parameter.py)"
_TOOLS = "give tools and tool_choice to /v1/chat/completions"
_LEFT_OPEN = "write the prompt as a text, or take its ids from /tokenize, and ask /v1/completions"

FIELDS: dict[str, dict[str, str]] = {
    "OpenAI's": {
        "functions": f"it is the old name of tools; {_TOOLS}",
        "function_call": f"it is the old name of tool_choice; {_TOOLS}",
        "suffix": _NO_SUFFIX,
        "best_of": "give n, and choose among the answers",
    },
    "vLLM's": {
        "guided_json": _SCHEMA,
        "guided_regex": 'give constraint: {"regex": "..."}',
        "guided_grammar": 'give constraint: {"grammar": "start: ..."}, in Lark\'s syntax',
        "guided_choice": 'give constraint: {"choice": ["...", "..."]}',
        "guided_json_object": 'give constraint: {"json_object": true}',
        "structured_outputs": 'give constraint: {"json_schema": {...}}, or regex, grammar or choice in its place',
        "use_beam_search": _ONE_WAY,
        "length_penalty": _ONE_WAY,
        "chat_template": "start the server with --chat-template FILE",
        "bad_words": "give logit_bias: -100 keeps a token out (/tokenize names the tokens of a text)",
        "allowed_token_ids": 'give constraint, such as {"choice": ["...", "..."]} or {"regex": "..."}',
        "truncate_prompt_tokens": "no prompt is cut; shorten it before (/tokenize counts its tokens)",
        "spaces_between_special_tokens": "the tokenizer alone says how tokens are joined; drop it",
        "logits_processors": _OWN,
        "vllm_xargs": _OWN,
        "kv_transfer_params": "caches are not sent from one server to another; drop it",
        "request_id": "give the header x-request-id",
        "documents": 'give chat_template_kwargs: {"documents": [...]} to /v1/chat/completions, if the chat template reads it',
        "add_generation_prompt": _LEFT_OPEN,
        "continue_final_message": _LEFT_OPEN,
    },
    "llama.cpp's": {
        "n_predict": "give max_tokens",
        "grammar": 'give constraint: {"grammar": "start: ..."}, in Lark\'s syntax in place of GBNF',
        "json_schema": _SCHEMA,
        "cache_prompt": "prompts are cached unless the server was started with --no-prefix-cache; drop it",
        "repeat_penalty": "give repetition_penalty",
        "id_slot": "requests share one cache and have no slots; drop it",
        "samplers": "sampling has one fixed order (docs/sampling.md); drop it",
        "n_probs": "give logprobs: N to /v1/completions, or logprobs: true and top_logprobs: N to /v1/chat/completions",
        "tfs_z": _OWN,
        "mirostat": _OWN,
        "typical_p": _OWN,
        "dry_multiplier": _OWN,
        "xtc_probability": _OWN,
    },
}


def hint(name: str) -> str | None:
    """What to do instead of giving this field; None for one that no table names."""
    for whose, fields in FIELDS.items():
        if name in fields:
            return f"{name} is a field of {whose} API that this server does not have: {fields[name]}"
    return None
