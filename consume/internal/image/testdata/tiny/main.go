// Command tiny stands for consume in tests: it has a version and is quickly built.
package main

var stamp string

func main() { println(stamp) }
