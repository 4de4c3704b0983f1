"""The csv feed: FOLDER/SYMBOL.csv, with a header that names a date and a close column."""

import csv
import math
from datetime import date
from pathlib import Path

from SureshotSDK.feeds._cursor import Cursor
from SureshotSDK.feeds._recorded import RecordedFeed


def csv_feed(folder: Path, symbol: str, window: int, cursor: Cursor | None = None) -> RecordedFeed:
    """Opens the recorded closes in `folder`, by the days of `symbol`.

    Raises: ValueError, when the folder, the symbol's file or one of its figures is not there.
    """
    if not folder.is_dir():
        raise ValueError(f"PRICE_FEED=csv:{folder}: there is no such folder.")
    return RecordedFeed(
        lambda wanted: read_closes(folder / f"{wanted}.csv"),
        symbol=symbol,
        window=window,
        description=f"csv:{folder}",
        cursor=cursor,
    )


def read_closes(path: Path) -> dict[date, float]:
    """The closes in a file by date; empty when there is no file.

    Raises: ValueError, naming the file and line, for a row that is not a date and a price.
    """
    if not path.is_file():
        return {}
    with path.open(newline="") as file:
        rows = csv.reader(file)
        header = [name.strip().lower() for name in next(rows, [])]
        if not {"date", "close"} <= set(header):
            raise ValueError(f"{path} needs the columns date and close; it has {header}.")
        day_at, close_at = header.index("date"), header.index("close")
        closes = {}
        for row in filter(None, rows):
            try:
                day, close = date.fromisoformat(row[day_at].strip()[:10]), float(row[close_at])
            except (ValueError, IndexError) as wrong:
                raise ValueError(f"{path}, line {rows.line_num}: {wrong}.") from wrong
            if not (math.isfinite(close) and close > 0):
                raise ValueError(f"{path}, line {rows.line_num}: the close {close} is no price.")
            closes[day] = close
    return closes
