"""How a build's steps are run, journalled and spread over workers."""
