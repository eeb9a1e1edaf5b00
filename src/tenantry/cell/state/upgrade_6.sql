-- From version 5 to 6: a branch that keeps the former state of another says of which.
alter table branch add column preserved_of text;
