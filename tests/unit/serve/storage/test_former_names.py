"""A database of an earlier version keeps its judgments."""

from sqlalchemy import create_engine, insert, inspect, text

from serve.storage import tables


def test_a_table_with_a_former_name_is_renamed_with_its_rows(open_storage, url):
    open_storage().close()
    engine = create_engine(url)
    with engine.begin() as connection:
        head = {"experiment": "e", "judge": "j"}
        batch = head | {"number": 1, "is_valid": True, "created": 0.0}
        connection.execute(insert(tables.batches).values(batch))
        judgment = head | {"batch": 1, "pair_id": "p", "score": 1.0}
        connection.execute(insert(tables.judgments).values(judgment))
        connection.execute(text("ALTER TABLE judgments RENAME TO judgements"))
    open_storage().close()
    with engine.begin() as connection:
        assert connection.execute(text("SELECT pair_id FROM judgments")).all() == [("p",)]
        assert "judgements" not in inspect(connection).get_table_names()
    engine.dispose()
