"""What several test files share: real servers, indexes, kits and projects to test against."""
