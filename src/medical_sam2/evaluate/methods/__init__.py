"""Who answers: `named` finds a method, `interface` is what each of them offers; each other file is one, or one family."""
