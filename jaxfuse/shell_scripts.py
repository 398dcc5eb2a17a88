"""Scripts that complete the words of `jaxfuse` in bash, zsh and fish."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

_BASH = r"""
_jaxfuse() {
    local line=${COMP_LINE:0:COMP_POINT} current previous command word recipe="" option="" kept="" value
    local -a words
    read -ra words <<< "$line"
    [[ $line == *[[:space:]] ]] && words+=("")
    current=${words[${#words[@]} - 1]} previous=${words[${#words[@]} - 2]} command=${words[1]} value=$current
    for word in "${words[@]:2}"; do
        word=${word#--config=} word=${word%%:*} word=${word##*/} word=${word%.py}
        [[ -n $word && " $(_jaxfuse_words recipes) " == *" $word "* ]] && recipe=$word
    done
    if ((${#words[@]} <= 2)); then
        word=$(_jaxfuse_words commands)
    elif [[ $current == --config.* ]]; then
        word=$(_jaxfuse_words settings)
    elif [[ $current == --*=* ]]; then
        option=${current%%=*} option=${option#--} kept="${current%%=*}=" value=${current#*=}
    elif [[ $current == -* ]]; then
        word=$(_jaxfuse_words "$command options")
    elif [[ $previous == --*=* || $previous != --* ]]; then
        ((${#words[@]} == 3)) && option=first
    else
        option=${previous#--}
    fi
    if [[ $value == *:* && ($option == config || $option == first) ]]; then
        kept+=${value%"${value##*[:,]}"} value=${value##*[:,]}
        word=$(_jaxfuse_words "$recipe argument")
    elif [[ -n $option ]]; then
        word=$(_jaxfuse_words "$command $option" "$recipe $option")
    fi
    COMPREPLY=($(compgen -P "$kept" -W "$word" -- "$value"))
    [[ ${COMPREPLY[0]} == *= ]] && compopt -o nospace 2> /dev/null
    word=${current%"${current##*[=:]}"} # bash replaces what follows the last = or :
    COMPREPLY=("${COMPREPLY[@]#"$word"}")
}
complete -o default -F _jaxfuse jaxfuse
"""

_ZSH = r"""
_jaxfuse() {
    local word recipe="" option="" command=${words[2]} previous=${words[CURRENT - 1]} current=${PREFIX}
    local -a found
    for word in ${words[3,-1]}; do
        word=${${${${word#--config=}%%:*}##*/}%.py}
        [[ -n $word && " $(_jaxfuse_words recipes) " == *" $word "* ]] && recipe=$word
    done
    if ((CURRENT == 2)); then
        found=($(_jaxfuse_words commands))
    elif [[ $current == --config.* ]]; then
        found=($(_jaxfuse_words settings))
    elif [[ $current == --*=* ]]; then
        option=${${current%%=*}#--}
        compset -P 1 '*='
    elif [[ $current == -* ]]; then
        found=($(_jaxfuse_words "$command options"))
    elif [[ $previous == --*=* || $previous != --* ]]; then
        ((CURRENT == 3)) && option=first
    else
        option=${previous#--}
    fi
    if [[ $PREFIX == *:* && ($option == config || $option == first) ]]; then
        compset -P '*[:,]'
        found=($(_jaxfuse_words "$recipe argument"))
    elif [[ -n $option ]]; then
        found=($(_jaxfuse_words "$command $option" "$recipe $option"))
    fi
    local -a open=(${(M)found:#*=}) whole=(${found:#*=})
    compadd -- $whole && word=""
    compadd -S '' -- $open && word=""
    [[ -n $option ]] && _files
    return 0
}
if [[ $funcstack[1] == _jaxfuse ]]; then _jaxfuse "$@"; else compdef _jaxfuse jaxfuse; fi
"""

# What stands first behind these commands is of one kind.
FIRST = "first"
# The text after a recipe's name: the preset, and the others with their names.
_ARGUMENT = "argument"


@dataclass(frozen=True)
class Option:
    """An option of a command: its name without hyphens, whether a value follows, which ones, and what it is for."""

    name: str
    takes_value: bool
    values: tuple[str, ...]
    about: str


@dataclass(frozen=True)
class Words:
    """All that can be completed.

    Args:
        version: of jaxfuse.
        commands: what each is for.
        options: of each command; one called `FIRST` is no option, and its values stand first.
        recipes: of each recipe the names of its "preset", "row" and "data".
        settings: options that all recipes have, by dotted names.
    """

    version: str
    commands: Mapping[str, str]
    options: Mapping[str, tuple[Option, ...]]
    recipes: Mapping[str, Mapping[str, tuple[str, ...]]]
    settings: tuple[str, ...]


def bash(words: Words) -> str:
    """Returns the script for bash 3.2 and newer."""
    return f"# Completion of jaxfuse {words.version} for bash: jaxfuse completion bash\n{_table(words)}{_BASH}"


def zsh(words: Words) -> str:
    """Returns the script for zsh: a file `_jaxfuse` in a folder of its `fpath`, or text to evaluate after compinit."""
    opening = f"#compdef jaxfuse\n# Completion of jaxfuse {words.version} for zsh: jaxfuse completion zsh\n"
    return f"{opening}{_table(words)}{_ZSH}"


def _table(words: Words) -> str:
    """Returns a function of bash and zsh from a key to words, such as from "train options"."""
    entries = {"commands": tuple(words.commands), "recipes": tuple(words.recipes)}
    entries["settings"] = tuple(f"--config.{name}=" for name in words.settings)
    for command, options in words.options.items():
        shown = (f"--{one.name}{'=' if one.takes_value else ''}" for one in options if one.name != FIRST)
        entries[f"{command} options"] = tuple(shown)
        entries |= {f"{command} {one.name}": one.values for one in options if one.values}
    for recipe, offers in words.recipes.items():
        entries |= {f"{recipe} {kind}": names for kind, names in offers.items() if names}
        named = [f"{kind}={name}" for kind, names in offers.items() if kind != "preset" for name in names]
        entries[f"{recipe} {_ARGUMENT}"] = (*offers.get("preset", ()), *named)
    lines = [
        f"            {shlex.quote(key)}) echo {shlex.quote(' '.join(found))} ;;" for key, found in entries.items()
    ]
    opening = ["_jaxfuse_words() {", "    local key", '    for key in "$@"; do', '        case "$key" in']
    return "\n".join([*opening, *lines, "        esac", "    done", "}"])


def fish(words: Words) -> str:
    """Returns the script for fish."""
    lines = [f"# Completion of jaxfuse {words.version} for fish: jaxfuse completion fish"]
    lines += [
        f"complete -c jaxfuse -n __fish_use_subcommand -f -a {name} -d {_fish(told)}"
        for name, told in words.commands.items()
    ]
    for command, options in words.options.items():
        after = f"complete -c jaxfuse -n '__fish_seen_subcommand_from {command}'"
        for one in options:
            values = [*one.values, *_offered(words, one.name)] if one.takes_value else []
            given = f" -a {_fish(' '.join(values))}" if values else ""
            if one.name == FIRST:
                lines.append(f"{after}{given}")
            else:
                # What has names of its own takes no file, but for a recipe.
                takes = "" if not one.takes_value else " -x" if values and one.name != "config" else " -r"
                lines.append(f"{after} -l {one.name}{takes}{given} -d {_fish(one.about)}")
        if any(one.name == "config" for one in options):
            lines += [f"{after} -l config.{name} -r" for name in words.settings]
    return "\n".join(lines) + "\n"


def _offered(words: Words, kind: str) -> Iterator[str]:
    """Yields what any recipe offers of a kind, such as its presets; nothing of another option."""
    yield from dict.fromkeys(name for offers in words.recipes.values() for name in offers.get(kind, ()))


def _fish(text: str) -> str:
    """Quotes text for fish, in which a backslash saves a quotation mark within others."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
