// Package dev holds black-box tests of `dfs dev`: a whole cluster on one machine, by one command.
package dev
