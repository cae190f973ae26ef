"""`make drills`: breaks a running fleet on purpose, under load, and shows that no job is lost, run twice or wrong.

__main__.py is the command. catalogue.py says which drills there are (data), acts.py what each does, faults.py how a
unit, a connection or a clock is broken and mended, drill.py how one drill is held and judged. scene.py is the fleet
with a client of its API, hosts.py its hosts over ssh. The load and its audit are those of loadtests/.
"""
