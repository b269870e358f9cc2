"""Selection methods of a stranger. Every public module here is one."""
