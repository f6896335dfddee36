"""A rule that is written as an ASSERT refuses rows like any other."""

from alembic import op

from mirrorfeed.consumer.migrations import in_our_schema

revision = "0009"
down_revision = "0008"

TRY_EACH = """
CREATE OR REPLACE FUNCTION try_each(scripts json, trouble text[])
    RETURNS TABLE (place bigint, error text)
    LANGUAGE plpgsql AS $$
DECLARE
    script text;
BEGIN
    FOR place, script IN
        SELECT ordinality, value FROM json_array_elements_text(scripts) WITH ORDINALITY
    LOOP
        BEGIN
            EXECUTE script;
        EXCEPTION WHEN assert_failure OR OTHERS THEN  -- the latter does not mean the former
            IF left(SQLSTATE, 2) = ANY (trouble) THEN
                RAISE;
            END IF;
            error := SQLERRM;
            RETURN NEXT;
        END;
    END LOOP;
END
$$
"""


@in_our_schema()
def upgrade() -> None:
    op.execute(TRY_EACH)
