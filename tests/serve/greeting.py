"""A Serve application of one line, for tests of what surrounds applications."""

from ray import serve


@serve.deployment(ray_actor_options={"num_cpus": 0.1})
class Greeting:
    """Says hello."""

    def __call__(self, _: object) -> str:
        """Answer any request."""
        return "hello"


app = Greeting.bind()  # type: ignore[attr-defined]
