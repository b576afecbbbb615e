"""`llmspec new`: what somebody's files hold, which sizes fit them and this machine, and a commented spec for them."""
