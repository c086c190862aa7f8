"""Tables: formats, bytes, refusals."""

import csv
import io
import json

import pytest

from ldct_jax.errors import UsageError
from ldct_jax.metrics.statistics import MeanSD
from ldct_jax.report.tables import Column, Table


def example(**changes) -> Table:
    values = {
        "name": "table_1",
        "title": "Table I",
        "columns": [
            Column("model"),
            Column("PSNR", "dB", 2),
            Column("PSNR, paper", "dB", 2, paper=True),
            Column("parameters"),
        ],
        "rows": [
            ["undenoised", MeanSD(38.123456789, 0.5, 3), None, 0],
            ["full | PCN <b>", MeanSD(float("inf"), None, 3), 45.4235, 187921],
        ],
        "protocol": "pcn: [-1024, 3072] HU",
        "data": "phantoms",
        "note": "Two seeds.",
    }
    return Table(**(values | changes))


@pytest.mark.core
def test_markdown_csv_and_json_hold_the_same_numbers():
    table = example()
    markdown = table.markdown()
    assert "| undenoised | 38.12 ± 0.50 | – | 0 |" in markdown
    assert "| full \\| PCN <b> | inf | 45.42 | 187,921 |" in markdown
    assert "| --- | ---: | ---: | ---: |" in markdown
    assert "Protocol: pcn: [-1024, 3072] HU. Data: phantoms. Two seeds." in markdown

    rows = list(csv.DictReader(io.StringIO(table.csv())))
    assert rows[0]["PSNR [dB]"] == "38.123456789" and rows[0]["SD of PSNR [dB]"] == "0.5"
    assert rows[1]["PSNR [dB]"] == "inf" and rows[1]["SD of PSNR [dB]"] == ""
    assert rows[1]["parameters"] == "187921" and rows[0]["PSNR, paper [dB]"] == ""
    assert rows[0]["protocol"].startswith("pcn") and rows[1]["data"] == "phantoms"

    record = json.loads(table.json())
    assert record["rows"][0]["PSNR [dB]"] == {"mean": 38.123456789, "sd": 0.5, "n": 3}
    assert record["rows"][1]["PSNR [dB]"]["mean"] == "inf"
    assert record["columns"][2]["paper"] and record["protocol"].startswith("pcn")


def test_html_escapes_and_sets_the_papers_values_apart():
    page = example().html()
    assert "full | PCN &lt;b&gt;" in page and "<b>\n" not in page
    assert page.count('class="paper number"') == 3


def test_the_same_numbers_give_the_same_bytes():
    assert example().files == example().files
    assert list(example().files) == ["table_1.md", "table_1.csv", "table_1.json"]
    assert example(note="other").files != example().files


@pytest.mark.parametrize("key", ["protocol", "data"])
def test_a_table_without_its_protocol_or_data_is_refused(key):
    with pytest.raises(UsageError, match="protocol and its data"):
        example(**{key: " "})


def test_misshaped_tables_are_refused():
    with pytest.raises(UsageError, match="row 1 has 2 cells for 4"):
        example(rows=[["a", 1.0, 1.0, 1], ["b", 2.0]])
    with pytest.raises(UsageError, match="different heads"):
        example(columns=[Column("a"), Column("a")], rows=[])
