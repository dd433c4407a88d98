// The application of the rivals in Go: what release.py is to those in Python, with the same releases, faults, paths and
// headers (but /hold, which no bench of rivals asks for), in a server that upgrades itself on SIGHUP, as the example in
// the documentation of tableflip does.
//
// The new process of an upgrade is the same program. What makes a release of it is the file that BENCH_RELEASE names,
// read at its start; what an application's load takes is slept before it listens and says that it is ready.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"github.com/cloudflare/tableflip"
)

const (
	later  = 3 * time.Second
	drain  = 30 * time.Second
	pieces = 10
)

type release struct {
	Name    string
	ImportS float64 `json:"import_s"`
	Fault   string
}

func load(path string) (*release, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	loaded := &release{}
	if err := json.Unmarshal(text, loaded); err != nil {
		return nil, err
	}
	time.Sleep(time.Duration(loaded.ImportS * float64(time.Second)))
	switch loaded.Fault {
	case "import":
		return nil, fmt.Errorf("this release cannot be loaded")
	case "hang":
		time.Sleep(10 * time.Minute)
	case "later":
		time.AfterFunc(later, die)
	}
	return loaded, nil
}

func die() {
	syscall.Kill(os.Getpid(), syscall.SIGKILL)
}

func (loaded *release) ServeHTTP(answer http.ResponseWriter, request *http.Request) {
	if loaded.Fault == "first" {
		die()
	}
	answer.Header().Set("Content-Type", "text/plain")
	answer.Header().Set("X-Gen", loaded.Name)
	answer.Header().Set("X-Pid", strconv.Itoa(os.Getpid()))
	if loaded.Fault == "500" {
		answer.WriteHeader(http.StatusInternalServerError)
		return
	}
	ms, _ := strconv.ParseFloat(request.URL.Query().Get("ms"), 64)
	patience := time.Duration(ms * float64(time.Millisecond))
	switch request.URL.Path {
	case "/stream":
		for piece := 0; piece < pieces; piece++ {
			io.WriteString(answer, "piece\n")
			answer.(http.Flusher).Flush()
			time.Sleep(patience / pieces)
		}
		return
	case "/slow":
		time.Sleep(patience)
	case "/upload":
		size, err := io.Copy(io.Discard, request.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		fmt.Fprintf(answer, "%d bytes\n", size)
		return
	}
	io.WriteString(answer, "answer\n")
}

func main() {
	address := flag.String("listen", "127.0.0.1:8080", "`address`")
	pidFile := flag.String("pid-file", "", "`path`")
	processors := flag.Int("processors", 0, "how many may be used at a time; 0: all")
	flag.Parse()
	log.SetPrefix(fmt.Sprintf("[%d] ", os.Getpid()))
	runtime.GOMAXPROCS(*processors)

	upgrader, err := tableflip.New(tableflip.Options{PIDFile: *pidFile})
	if err != nil {
		log.Fatalln(err)
	}
	defer upgrader.Stop()
	orders := make(chan os.Signal, 1)
	signal.Notify(orders, syscall.SIGHUP)
	go func() {
		for range orders {
			if err := upgrader.Upgrade(); err != nil {
				log.Println("upgrade failed:", err)
			}
		}
	}()

	loaded, err := load(os.Getenv("BENCH_RELEASE"))
	if err != nil {
		log.Fatalln(err)
	}
	listener, err := upgrader.Listen("tcp", *address)
	if err != nil {
		log.Fatalln(err)
	}
	server := &http.Server{Handler: loaded}
	go func() {
		if err := server.Serve(listener); err != http.ErrServerClosed {
			log.Fatalln(err)
		}
	}()
	if err := upgrader.Ready(); err != nil {
		log.Fatalln(err)
	}
	<-upgrader.Exit()

	time.AfterFunc(drain, func() { log.Fatalf("not drained in %s", drain) })
	server.Shutdown(context.Background())
}
