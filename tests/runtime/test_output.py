"""Where words go, from below Python."""

import os
import subprocess
import sys

from llama_align.runtime.output import heard_by, into, say, tail


def test_all_that_is_printed_goes_to_the_log_and_what_is_said_to_who_hears_it(tmp_path, capfd):
    log, heard = tmp_path / "a" / "output.log", []
    log.parent.mkdir()
    log.write_text("before\n")
    with into(log) as (out, error), heard_by(lambda text, shown: heard.append((text, shown))):
        os.write(1, b"from C\n")
        os.write(2, b"a warning\n")
        subprocess.run([sys.executable, "-S", "-c", "print('a child')"], check=True)
        say("for the user", "in colour")
        print("to the terminal", file=out)
        print("an error", file=error)
    os.write(1, b"after\n")
    say("not heard")
    found = capfd.readouterr()
    assert (found.out, found.err) == ("to the terminal\nafter\nnot heard\n", "an error\n")
    assert heard == [("for the user", "in colour")]
    written = log.read_text()
    assert written.startswith("before\n")
    assert {"from C", "a warning", "a child", "for the user"} <= set(written.splitlines())


def test_the_end_of_a_log_has_bars_as_they_were_last(tmp_path):
    log = tmp_path / "output.log"
    assert tail(log) == ""
    log.write_bytes(b"one\n\n 10%\r 20%\r100%\ntwo\xff\n" + b"three\n")
    assert tail(log) == "one\n100%\ntwo\ufffd\nthree"
    assert tail(log, 1) == "three"
