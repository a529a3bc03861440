"""Token sequences: what each task says, and which tokens may follow which."""
