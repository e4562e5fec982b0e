"""Chat templates: the text that Hugging Face renders, refusals by name, and no way out of the sandbox."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pytest

import gguf_writer as w
import vocabulary as v
from lanner._core import GgufFile, ModelFileError
from lanner.chat_template import ChatTemplate
from lanner.tokenizer import Tokenizer

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Name a colour & a <fruit>."},
    {"role": "assistant", "content": "Red."},
    {"role": "user", "content": "Another?"},
]


def render(source: str, messages: Any = CHAT, **variables: Any) -> str:
    return ChatTemplate(source).render(messages, **variables)


@pytest.fixture
def tiny(tmp_path: Path):
    def open_tokenizer(**changes: Any) -> Tokenizer:
        metadata = {k: x for k, x in (v.METADATA | changes).items() if x is not None}
        (tmp_path / "tiny.gguf").write_bytes(w.gguf_bytes(metadata, {}))
        return Tokenizer.from_gguf(GgufFile(str(tmp_path / "tiny.gguf")))

    return open_tokenizer


def test_template_of_a_real_model(smollm2_path: Path) -> None:
    t = Tokenizer.from_gguf(GgufFile(str(smollm2_path)))
    text = t.apply_chat_template(CHAT)
    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nName a colour & a <fruit>.<|im_end|>\n"
        "<|im_start|>assistant\nRed.<|im_end|>\n<|im_start|>user\nAnother?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert t.apply_chat_template(CHAT[1:2], add_generation_prompt=False).endswith("<fruit>.<|im_end|>\n")
    ids = t.encode_chat(CHAT)
    assert ids.count(t.bos_id) == 5
    assert t.decode(ids, skip_special=False) == text


def test_renders_as_transformers(smollm2_path: Path) -> None:
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    source = GgufFile(str(smollm2_path)).get("tokenizer.chat_template")
    wanted, _ = utils.render_jinja_template([CHAT], chat_template=source, add_generation_prompt=True)
    assert render(source, add_generation_prompt=True) == wanted[0]


def test_special_tokens_and_one_bos(tiny: Any) -> None:
    t = tiny(**{"tokenizer.ggml.add_bos_token": True})
    text = t.apply_chat_template([{"role": "user", "content": "hi"}])
    assert text == "<|im_start|>user: hi<|im_end|>\nassistant:"
    assert t.encode_chat([{"role": "user", "content": "hi"}]) == t.encode(text)
    assert t.encode(text).count(t.bos_id) == 1


def test_model_without_a_template(tiny: Any) -> None:
    t = tiny(**{"tokenizer.chat_template": None})
    with pytest.raises(ValueError, match="this model has no chat template"):
        t.apply_chat_template(CHAT)


def test_helpers_of_templates() -> None:
    assert (
        render("{% for m in messages %}\n  {% if loop.first %}\n{{ m.role }}\n  {% endif %}\n{% endfor %}")
        == "system\n"
    )
    assert render("{{ {'b': '<é>', 'a': 1} | tojson }}") == '{"b": "<é>", "a": 1}'
    assert render("{{ [1] | tojson(indent=1) }}") == "[\n 1\n]"
    assert render("{% for m in messages %}{% if loop.index > 2 %}{% break %}{% endif %}x{% endfor %}") == "xx"
    assert render("{% generation %}text{% endgeneration %}") == "text"
    assert render("{{ strftime_now('%Y') }}") == str(datetime.datetime.now().year)
    assert render("{{ 'none' if tools is none else 'some' }}", tools=None) == "none"
    assert render("{{ thinking }}", thinking=True) == "True"


def test_template_refuses() -> None:
    with pytest.raises(ValueError, match="refuses the messages: roles must alternate"):
        render("{{ raise_exception('roles must alternate') }}")
    with pytest.raises(ValueError, match="fails on the messages: TypeError"):
        render("{{ messages[0].content + 'x' }}", [{"role": "user", "content": None}])
    with pytest.raises(ValueError, match="fails on the messages: UndefinedError"):
        render("{{ messages[7].content.strip() }}")


@pytest.mark.parametrize(
    "source", ["{% if %}", "{{ 'a' ", "{% frobnicate %}", "{{ x | no_such_filter }}", "{{" * 5000]
)
def test_broken_template(source: str) -> None:
    with pytest.raises(ModelFileError, match="not a valid template"):
        ChatTemplate(source)


@pytest.mark.parametrize(
    "expression",
    [
        "''.__class__",
        "''.__class__.__mro__[1].__subclasses__()",
        "messages.__class__.__base__",
        "''['__class__']['__mro__']",
        "'' | attr('__class__') | string",
        "raise_exception.__globals__",
        "strftime_now.__globals__['json']",
        "cycler.__init__.__globals__.os.popen('id').read()",
        "'{0.__class__.__init__.__globals__}'.format(raise_exception)",
        "('{0.__cla' + 'ss__}').format('')",
        "messages.append(1)",
        "messages[0].update(role='root')",
        "self.__init__.__globals__",
        "loopcontrols.__class__",
    ],
)
def test_sandbox_gives_no_way_to_python(expression: str) -> None:
    messages = [dict(message) for message in CHAT]
    try:
        text = render("{{ " + expression + " }}", messages)
    except (ValueError, ModelFileError):
        text = ""
    assert not any(word in text for word in ("class", "object", "function", "module", "uid=", "<"))
    assert messages == CHAT


@pytest.mark.parametrize(
    "messages", ["hi", {"role": "user"}, [{"content": "x"}], ["user"], [{"role": 1}], [None]]
)
def test_messages_are_checked(messages: Any) -> None:
    with pytest.raises(ValueError, match="was wanted"):
        render("x", messages)
