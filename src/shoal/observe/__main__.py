"""Prints the tables of docs/metrics.md: ``python -m shoal.observe``."""

from shoal.observe.catalog import as_markdown

print(as_markdown())
