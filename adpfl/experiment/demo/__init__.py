"""`adpfl demo`: three hospitals on one machine, by the commands that a person would type.

`folder` owns the demonstration's folder, `configuration` writes what an operator and a site would write,
`processes` starts and stops the commands, `progress` reads how far they are, `conduct` plays it all.
"""
