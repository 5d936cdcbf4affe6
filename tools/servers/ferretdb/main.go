// Command ferretdb serves the MongoDB wire protocol on SQLite, for Basalt's tests.
//
// FerretDB's own command needs files that its build generates; its embeddable package does not.
package main

import (
	"context"
	"flag"
	"log"
	"os/signal"
	"syscall"

	"github.com/FerretDB/FerretDB/ferretdb"
)

func main() {
	address := flag.String("address", "", "host:port to listen on")
	directory := flag.String("directory", "", "existing folder of the SQLite files")
	flag.Parse()

	if *address == "" || *directory == "" {
		log.Fatal("ferretdb: -address and -directory are required")
	}

	server, err := ferretdb.New(&ferretdb.Config{
		Listener:  ferretdb.ListenerConfig{TCP: *address},
		Handler:   "sqlite",
		SQLiteURL: "file:" + *directory + "/",
	})
	if err != nil {
		log.Fatalf("ferretdb: %v", err)
	}

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()

	if err = server.Run(ctx); err != nil {
		log.Fatalf("ferretdb: %v", err)
	}
}
