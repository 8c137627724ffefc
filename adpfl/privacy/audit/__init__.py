"""An attack on the site's own engine: does a release show more than the ledger says it can?

Accounting is a proof about a formula. The audit looks at what the running code gives out. It hides canaries
among a site's units, lets the real engine release its steps, and guesses from the releases which canaries
were there. Guesses better than the certified guarantee allows are proof of a defect.

`canaries` makes the units and the engine that carries them, `bounds` turns guesses into lower bounds that
hold with a stated confidence, `gates` compares these with what was promised and `verdict` sums up, `battery`
runs it all on gradients of one's choice. The whole pipeline of task, network and local training is audited by
`adpfl.experiment.audit`.
"""
