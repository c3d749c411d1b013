"""What `python -m` starts as a rank: nothing is imported before the collector rests."""

from __future__ import annotations

from brigade import collector


def main() -> None:
    collector.rest()
    from brigade.assembly import rank

    try:
        rank.main()
    finally:
        collector.leave_out()


if __name__ == "__main__":
    main()
