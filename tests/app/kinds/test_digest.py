"""digest: small, and checked by doing it again."""

from hypothesis import given
from hypothesis import strategies as st

from kinds import digest, mandelbrot

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"))


@given(TEXT, st.integers(0, 50))
def test_a_right_result_verifies_and_a_wrong_one_does_not(text, top):
    params = {"text": text, "top": top}
    result = digest.run(digest.DigestParams(**params), mandelbrot.silent).result
    assert digest.verify(params, result)
    assert not digest.verify({**params, "text": text + "x"}, result)
