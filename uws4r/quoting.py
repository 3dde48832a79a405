"""What clients have sent, on its way into the log: escaped, and no more of it than helps."""

SHOWN = 100  # characters of what a client has sent


def shown(value: object) -> str:
    """Return a text as a literal of ASCII, of at most :data:`SHOWN` of its characters."""
    text = str(value)
    return ascii(text) if len(text) <= SHOWN else ascii(text[:SHOWN]) + "..."


def brief(identity: str) -> str:
    """Return who a client is, as :class:`~uws4r.attachment.Identity` has it, with its long parts shortened."""
    if len(identity) <= SHOWN:
        return identity
    return " ".join(part if len(part) <= SHOWN else part[:SHOWN] + "..." for part in identity.split(" "))


def harmless(error: BaseException, depth: int = 8) -> BaseException:
    """
    Return an exception for ``exc_info``, where its text may repeat what a client has sent.

    One whose text is a short line of plain text is returned as it is. Of another, an exception of the same name and
    traceback is made, with the text as :func:`shown` has it; so are those that it was raised from.

    Args:
        depth: So many of the latter are looked at; the rest is left out.
    """
    try:
        text = str(error)
    except Exception:  # a class of the site's own
        text = "no text can be made of it"
    chained = {
        name: harmless(before, depth - 1) if depth and before is not None and before is not error else None
        for name, before in (("__cause__", error.__cause__), ("__context__", error.__context__))
    }
    plain = text.isascii() and (text.isprintable() or not text) and len(text) <= SHOWN
    more = getattr(error, "__notes__", None) or getattr(error, "exceptions", None)  # of a group; printed as well
    if plain and not more and all(getattr(error, name) is made for name, made in chained.items()):
        return error
    kind = type(error)
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
    copy: BaseException = type(kind.__name__, (Exception,), names)(text if plain else shown(text))
    copy.__traceback__ = error.__traceback__
    copy.__cause__, copy.__context__ = chained["__cause__"], chained["__context__"]
    copy.__suppress_context__ = error.__suppress_context__
    return copy
