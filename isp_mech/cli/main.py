"""The command line: the library's verbs, on a task and a family."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from isp_mech.errors import InputError, visible

NEWLINE = "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code: 0, 2 for bad input (reported on stderr, nothing written), 130 when stopped."""
    from isp_mech.cli import completion
    from isp_mech.cli.answers import Answer
    from isp_mech.cli.parser import make_parser

    parser = make_parser()
    if completion.ASKED in os.environ:
        completion.answer_shell(parser)
    arguments = parser.parse_args(argv)
    try:
        answer = arguments.verb(arguments)
        return answer.give(arguments.json) if isinstance(answer, Answer) else answer or 0
    except InputError as error:
        print(f"isp-mech: {visible(error, keep=NEWLINE)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nisp-mech: stopped; what is done is kept, and the same command goes on from there", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has seen enough
        sys.stderr.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
