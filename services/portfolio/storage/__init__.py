"""PostgreSQL: tables, migrations, the hot statements, and the adapters of the ports."""
