"""Settings: what the user typed, as frozen, checked models.

Upstream: `pgflo.cli` collects flags, environment and the configuration file. Downstream: every
package takes one of the models of `settings` and reads neither files nor the environment itself.
"""
