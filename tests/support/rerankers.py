"""Rerankers with classification heads, other answers and chat templates."""

import json
from pathlib import Path

import tokenizers
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, Qwen3Config, Qwen3ForSequenceClassification

import quernstone
from quernstone import PairTemplate
from quernstone.encoding.prompts import DEFAULT_INSTRUCTION, RERANK_PREFIX, RERANK_SUFFIXES

TINY = Path(quernstone.__file__).parent / "checkpoints" / "tiny" / "reranker"
ENGINES = ["torch", "transformers", "sentence-transformers"]
PAIRS = [
    (query, text)
    for query in ("grinding grain", "what is a quern?")
    for text in ("a quern is a hand mill", "it rains", "", "the mill grinds grain " * 20)
]
PLAIN = PairTemplate(prefix="{query}")
CHAT = PairTemplate(
    prefix="<|im_start|>system\n{query}<|im_end|>\n<|im_start|>user\n",
    suffix="<|im_end|>\n<|im_start|>assistant\n",
)
MESSAGES = (
    "{%- for message in messages -%}<|im_start|>{{ {'query': 'system', 'document': 'user'}"
    "[message.role] }}\n{{ message.content CONTENT }}<|im_end|>{{ '\n' }}{%- endfor -%}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SYSTEM = "messages | selectattr('role', 'eq', 'ROLE') | map(attribute='content') | first"
QWENS = (
    RERANK_PREFIX
    + f"<Instruct>: {{{{ {SYSTEM.replace('ROLE', 'system')} | default('{DEFAULT_INSTRUCTION}') }}}}"
    + f"\n<Query>: {{{{ {SYSTEM.replace('ROLE', 'query')} }}}}"
    + f"\n<Document>: {{{{ {SYSTEM.replace('ROLE', 'document')} }}}}"
    + "{{ '"
    + RERANK_SUFFIXES["card"].replace("\n", "\\n")
    + "' }}"
)


def write(folder, name, **fields):
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**content, **fields}))


def classifier(folder, labels, **fields):
    """Replace the tiny model by a random one with a classification head."""
    (folder / "model.safetensors").unlink()
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=24945,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=2048,
        initializer_range=0.2,
        num_labels=labels,
    )
    Qwen3ForSequenceClassification(config).save_pretrained(folder)
    write(folder, "config.json", **fields)
    return folder


def converted(folder, *rows, **fields):
    """Convert the tiny reranker, whose answers are tokens, to a classification head."""
    tensors = load_file(folder / "model.safetensors")
    embeddings = tensors["model.embed_tokens.weight"]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    no, yes = (embeddings[tokenizer.convert_tokens_to_ids(word)].float() for word in ("no", "yes"))
    heads = {"no": no, "yes": yes, "difference": yes - no}
    tensors = {name: tensor.float() for name, tensor in tensors.items()}
    tensors["score.weight"] = torch.stack([heads[row] for row in rows])
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    names = {str(index): row for index, row in enumerate(rows)}
    write(
        folder,
        "config.json",
        architectures=["Qwen3ForSequenceClassification"],
        id2label=names if len(rows) > 1 else {"0": "LABEL_0"},
        **fields,
    )
    return folder


def module(place, path, kind):
    name = f"sentence_transformers.{kind}"
    return {"idx": place, "name": str(place), "path": path, "type": name}


def logit_score(folder, positive, negative=None, chat=None, activation=None, **variables):
    """Store a folder as sentence-transformers 6 does."""
    modules = [
        module(0, "", "base.modules.transformer.Transformer"),
        module(1, "1_LogitScore", "cross_encoder.modules.logit_score.LogitScore"),
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    ids = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")).token_to_id
    answers = {"true_token_id": ids(positive), "false_token_id": negative and ids(negative)}
    write(folder, "1_LogitScore/config.json", **answers)
    stored = {"model_type": "CrossEncoder", "prompts": {}, "default_prompt_name": None}
    if activation:
        stored["activation_fn"] = f"torch.nn.modules.{activation}"
    write(folder, "config_sentence_transformers.json", **stored)
    write(
        folder,
        "sentence_bert_config.json",
        transformer_task="text-generation",
        modality_config={
            name: {"method": "forward", "method_output_name": "logits"}
            for name in (["text", "message"] if chat else ["text"])
        },
        module_output_name="causal_logits",
        processing_kwargs={"chat_template": variables},
    )
    if chat:
        (folder / "chat_template.jinja").write_text(chat)
    return folder


def expected_logits(folder, template, instruction=""):
    """Return the logits of transformers, one unpadded prompt at a time."""
    model = Qwen3ForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = []
    for query, document in PAIRS:
        before, _, after = template.prefix.partition("{query}")
        texts = before + query, after + document + template.suffix
        parts = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
        ids = [*parts[0], *parts[1]]
        with torch.inference_mode():
            rows.append(model(torch.tensor([ids])).logits[0])
    return torch.stack(rows)
