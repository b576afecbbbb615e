# ruff: noqa: E501  messages stand as they are printed
"""A good spec, mistakes in it, and the whole message that a user reads of each."""

from __future__ import annotations

GOOD = """\
name: tiny
model:
  context: 16
  d_model: 8
  layers: 1
  attention: {kind: grouped_query, heads: 2}
tokenizer: {kind: bpe, vocab: 300}
data:
  sources:
    plays: {kind: inline, documents: [To be, or not]}
    wiki: {kind: inline, records: [{q: Why, a: So}]}
phases:
  pretrain: {kind: pretrain, mixture: {plays: 85%, wiki: 15%}, budget: 400 steps}
  chat: {kind: sft, from: pretrain, mixture: {wiki: 100%}, budget: 2 epochs of wiki}
decoding: {temperature: 0.8}
"""

GOLDEN = {
    "a number beyond its limit where a name may stand, too": (
        "d_model: 8",
        "d_model: 8\n  embedding: {scale: -1}",
        """\
spec.yaml:5:22: model.embedding.scale: has to be more than 0, not -1
    | embedding: {scale: -1}
    |                    ^^
    hint: scale: factor on the tokens' vectors, before positions are added: a number, or `sqrt_d_model` for √d_model""",
    ),
    "a misspelt key": (
        "layers: 1",
        "layer: 1",
        """\
spec.yaml:5:3: model.layer: unknown key
    | layer: 1
    | ^^^^^
    hint: did you mean `layers`?
    otherwise: it would be ignored, and `layers` would be missing""",
    ),
    "a misspelt key that has a default": (
        "tokenizer:",
        "tokenizr:",
        """\
spec.yaml:7:1: tokenizr: unknown key
    | tokenizr: {kind: bpe, vocab: 300}
    | ^^^^^^^^
    hint: did you mean `tokenizer`?
    otherwise: it would be ignored, and `tokenizer` would keep its default, {kind: byte}""",
    ),
    "a key in the wrong place": (
        "layers: 1",
        "layers: 1\n  min_p: 9",
        """\
spec.yaml:6:3: model.min_p: unknown key
    | min_p: 9
    | ^^^^^
    hint: `min_p` belongs under `decoding`
    otherwise: it would be ignored""",
    ),
    "a kind written twice": (
        "heads: 2",
        "heads: 2, kind: multi_head, kv_heads: 1",
        """\
spec.yaml:6:46: model.attention.kind: `kind` is written twice, here and on line 6
    | attention: {kind: grouped_query, heads: 2, kind: multi_head, kv_heads: 1}
    |                                            ^^^^
    hint: keep one of the two
    otherwise: one of the two values would be silently dropped""",
    ),
    "a key of another kind": (
        "grouped_query, heads: 2",
        "multi_head, kv_heads: 2",
        """\
spec.yaml:6:33: model.attention.kv_heads: `kv_heads` belongs to kind grouped_query; this is multi_head
    | attention: {kind: multi_head, kv_heads: 2}
    |                               ^^^^^^^^
    hint: remove `kv_heads`, or write `kind: grouped_query`
    otherwise: it would be ignored""",
    ),
    "an unknown kind": (
        "kind: bpe",
        "kind: bpee",
        """\
spec.yaml:7:19: tokenizer.kind: no tokenizer is of kind `bpee`
    | tokenizer: {kind: bpee, vocab: 300}
    |                   ^^^^
    hint: did you mean `bpe`? (kinds: byte, char, bpe, wordpiece, unigram, huggingface)""",
    ),
    "a missing key": (
        ", budget: 400 steps",
        "",
        """\
spec.yaml:13:3: phases.pretrain.budget: `budget` is missing
    | pretrain: {kind: pretrain, mixture: {plays: 85%, wiki: 15%}}
    | ^^^^^^^^
    hint: budget: how long: `2M tokens`, `400 steps`, `3 epochs of wiki`, `10 minutes` or `2 PFLOPs`
    otherwise: it has no default""",
    ),
    "a number in quotes": (
        "0.8",
        '"8e-1"',
        """\
spec.yaml:15:25: decoding.temperature: expected a number, not the text `8e-1`
    | decoding: {temperature: "8e-1"}
    |                         ^^^^^^
    hint: write `8e-1` without quotes""",
    ),
    "a number with a unit": (
        "context: 16",
        "context: 2k",
        """\
spec.yaml:3:12: model.context: expected a whole number, not the text `2k`
    | context: 2k
    |          ^^
    hint: write `2000`, as a plain number""",
    ),
    "yes for true": (
        "layers: 1",
        "layers: 1\n  heads: {lm: {tied: yes}}",
        """\
spec.yaml:6:22: model.heads.lm.tied: expected true or false, not the text `yes`
    | heads: {lm: {tied: yes}}
    |                    ^^^
    hint: write `true`""",
    ),
    "a name for a part": (
        "layers: 1",
        "layers: 1\n  position: rop",
        """\
spec.yaml:6:13: model.position: a position is a map of settings, not the text `rop`
    | position: rop
    |           ^^^
    hint: position: {kind: rope}""",
    ),
    "a negative number": (
        "layers: 1",
        "layers: -1",
        """\
spec.yaml:5:11: model.layers: has to be more than 0, not -1
    | layers: -1
    |         ^^
    hint: layers: number of blocks""",
    ),
    "a budget without its unit": (
        "400 steps",
        "400",
        """\
spec.yaml:13:72: phases.pretrain.budget: expected a budget with its unit, such as `2M tokens`, `400 steps`, `3 epochs of wiki`, `10 minutes` or `2 PFLOPs`
    | pretrain: {kind: pretrain, mixture: {plays: 85%, wiki: 15%}, budget: 400}
    |                                                                      ^^^
    hint: write `400 tokens` or `400 steps`""",
    ),
    "a share without its sign": (
        "wiki: 15%",
        "wiki: 0.15",
        """\
spec.yaml:13:58: phases.pretrain.mixture.wiki: expected a percentage, such as `85%`
    | pretrain: {kind: pretrain, mixture: {plays: 85%, wiki: 0.15}, budget: 400 steps}
    |                                                        ^^^^
    hint: write `15%`""",
    ),
    "a mixture that is not whole": (
        "plays: 85%",
        "plays: 75%",
        """\
spec.yaml:13:39: phases.pretrain.mixture: the shares of a mixture must total 100%, not 90%
    | pretrain: {kind: pretrain, mixture: {plays: 75%, wiki: 15%}, budget: 400 steps}
    |                                     ^""",
    ),
    "an unknown source": (
        "wiki: 15%",
        "wikki: 15%",
        """\
spec.yaml:13:52: phases.pretrain.mixture.wikki: no source is called `wikki`
    | pretrain: {kind: pretrain, mixture: {plays: 85%, wikki: 15%}, budget: 400 steps}
    |                                                  ^^^^^
    hint: did you mean `wiki`?
    otherwise: the phase would have nothing to read for it""",
    ),
    "epochs of a source that is not read": (
        "of wiki",
        "of plays",
        """\
spec.yaml:14:68: phases.chat.budget: epochs are counted on `plays`, which is not in the mixture
    | chat: {kind: sft, from: pretrain, mixture: {wiki: 100%}, budget: 2 epochs of plays}
    |                                                                  ^^^^^^^^^^^^^^^^^
    hint: there is `wiki`
    otherwise: the phase would never end""",
    ),
    "an unknown phase": (
        "from: pretrain",
        "from: pretrian",
        """\
spec.yaml:14:27: phases.chat.from: no phase is called `pretrian`
    | chat: {kind: sft, from: pretrian, mixture: {wiki: 100%}, budget: 2 epochs of wiki}
    |                         ^^^^^^^^
    hint: did you mean `pretrain`?
    otherwise: there would be no weights to start from""",
    ),
    "phases in a circle": (
        "kind: pretrain,",
        "kind: pretrain, from: chat,",
        """\
spec.yaml:14:27: phases.chat.from: phases start from each other in a circle: `pretrain` → `chat` → `pretrain`
    | chat: {kind: sft, from: pretrain, mixture: {wiki: 100%}, budget: 2 epochs of wiki}
    |                         ^^^^^^^^
    hint: one of them starts without `from:`
    otherwise: none of them could run first""",
    ),
    "a phase from itself": (
        "from: pretrain",
        "from: chat",
        """\
spec.yaml:14:27: phases.chat.from: the phase `chat` starts from itself
    | chat: {kind: sft, from: chat, mixture: {wiki: 100%}, budget: 2 epochs of wiki}
    |                         ^^^^
    hint: leave `from:` out, or name another phase
    otherwise: it could never run""",
    ),
    "a vocabulary smaller than its specials": (
        "vocab: 300",
        "vocab: 4",
        """\
spec.yaml:7:31: tokenizer.vocab: a vocabulary of 4 is smaller than its 6 special tokens and the 256 bytes
    | tokenizer: {kind: bpe, vocab: 4}
    |                               ^
    hint: vocab: 262 or more
    otherwise: some text could not be encoded""",
    ),
    "a role that is none": (
        "records: [{q: Why, a: So}]",
        "records: [{q: Why}], dialogue: {usr: '{q}'}",
        """\
spec.yaml:11:58: data.sources.wiki.dialogue.usr: `usr` is not a role
    | wiki: {kind: inline, records: [{q: Why}], dialogue: {usr: '{q}'}}
    |                                                      ^^^
    hint: did you mean `user`?""",
    ),
    "a name that cannot be a folder": (
        "name: tiny",
        "name: my model/2",
        """\
spec.yaml:1:7: name: `my model/2` cannot be a name: a letter (a to z) or digit, then letters, digits, `.`, `_` and `-`
    | name: my model/2
    |       ^^^^^^^^^^
    hint: such as `my-model-2`""",
    ),
    "a phase that climbs out of the run": (
        "  chat:",
        "  ../chat:",
        """\
spec.yaml:14:3: phases."../chat": `../chat` cannot name a phase: a letter (a to z) or digit, then letters, digits, `.`, `_` and `-`
    | ../chat: {kind: sft, from: pretrain, mixture: {wiki: 100%}, budget: 2 epochs of wiki}
    | ^^^^^^^
    otherwise: its folder in the run directory has this name""",
    ),
    "an empty section": (
        "decoding: {temperature: 0.8}",
        "decoding:",
        """\
spec.yaml:15:1: decoding: `decoding` is a map of settings, not nothing
    | decoding:
    | ^^^^^^^^
    hint: write its keys below it, indented; or remove it""",
    ),
    "a duplicate key": (
        "layers: 1",
        "layers: 1\n  context: 32",
        """\
spec.yaml:6:3: model.context: `context` is written twice, here and on line 3
    | context: 32
    | ^^^^^^^
    hint: keep one of the two
    otherwise: one of the two values would be silently dropped""",
    ),
    "a tab": (
        "  layers: 1",
        "\tlayers: 1",
        """\
spec.yaml:5:1: this is a tab, and YAML takes only spaces
    |  layers: 1
    | ^
    hint: indent with spaces; most editors convert tabs""",
    ),
    "an open bracket": (
        "heads: 2}",
        "heads: 2",
        """\
spec.yaml:6:14: this `{` is never closed
    | attention: {kind: grouped_query, heads: 2
    |            ^
    hint: close it with `}`""",
    ),
    "an open quote": (
        "name: tiny",
        'name: "tiny',
        """\
spec.yaml:1:7: this quote is never closed
    | name: "tiny
    |       ^
    hint: close it with the same quote""",
    ),
    "uneven indentation": (
        "  layers: 1",
        "   layers: 1",
        """\
spec.yaml:5:4: this line is indented by 3 spaces, unlike its neighbours
    | layers: 1
    | ^^^^^^^^^
    hint: keys of one map start in the same column""",
    ),
    "no colon": (
        "  layers: 1",
        "  layers 1",
        """\
spec.yaml:5:3: this line has no `:` after its key
    | layers 1
    | ^^^^^^^^
    hint: write `key: value`""",
    ),
    "a colon too many": (
        "name: tiny",
        "name: tiny: one",
        """\
spec.yaml:1:11: there is a second `: ` in this value
    | name: tiny: one
    |           ^
    hint: quote the value: `key: "a: b"`""",
    ),
    "a tag": (
        "name: tiny",
        "name: !!python/object/apply:os.system [ls]",
        """\
spec.yaml:1:7: name: `!!python/object/apply:os.system` is a tag, and a spec has none
    | name: !!python/object/apply:os.system [ls]
    |       ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
    hint: remove it; quote text that starts with `!`
    otherwise: tags can name code to run
spec.yaml:1:7: name: expected text, not a list
    | name: !!python/object/apply:os.system [ls]
    |       ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
    hint: name: name of the model and of its run directory""",
    ),
    "a key that is no text": (
        "name: tiny",
        "name: tiny\n2: x",
        """\
spec.yaml:2:1: a key has to be text, and `2` is read as a number
    | 2: x
    | ^
    hint: quote it: `"2":`""",
    ),
    "a merge key": (
        "name: tiny",
        "name: tiny\n<<: {seed: 1}",
        """\
spec.yaml:2:1: `<<` merges maps in YAML 1.1 only
    | <<: {seed: 1}
    | ^^
    hint: layer whole files with `extends:`, or write the keys out""",
    ),
    "two documents": (
        "decoding:",
        "---\ndecoding:",
        """\
spec.yaml:15:1: a second document starts here; a spec is one document
    | ---
    | ^^^
    hint: remove the `---` line, or keep the rest in a file of its own and `extends:` it""",
    ),
    "a filter order with a slip": (
        "0.8",
        "0.8, order: [temprature]",
        """\
spec.yaml:15:37: decoding.order: no filter is named `temprature`
    | decoding: {temperature: 0.8, order: [temprature]}
    |                                     ^
    hint: did you mean `temperature`?
    otherwise: the order could not be followed""",
    ),
    "infinity": (
        "0.8",
        ".inf",
        """\
spec.yaml:15:25: decoding.temperature: expected a finite number, not .inf
    | decoding: {temperature: .inf}
    |                         ^^^^
    hint: temperature: divides the logits""",
    ),
}
"""Name -> (what stands in GOOD, what is put in its place, the message)."""
