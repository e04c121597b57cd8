// Command task is what a task runs where there is no shell: the tests of the worker in its own, empty image use it.
//
//	task hold       says "holding", and "told to end" when it gets SIGTERM
//	task orphans N  leaves N processes to whoever adopts them, each of which ends at once; then holds
package main

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"syscall"
)

func main() {
	switch os.Args[1] {
	case "orphans":
		count, err := strconv.Atoi(os.Args[2])
		if err != nil {
			panic(err)
		}
		for range count {
			start("parent") // it ends before its own child does, which is nobody's then
		}
		hold()
	case "parent":
		if err := exec.Command("/proc/self/exe", "orphan").Start(); err != nil {
			panic(err)
		}
	case "orphan":
	case "hold":
		hold()
	}
}

// start runs this program to its end.
func start(arguments ...string) {
	command := exec.Command("/proc/self/exe", arguments...)
	command.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := command.Run(); err != nil {
		panic(err)
	}
}

func hold() {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM)
	fmt.Println("holding")
	<-signals
	fmt.Println("told to end")
}
