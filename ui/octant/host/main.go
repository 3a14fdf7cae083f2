// host starts Octant with a folder of plugins and does over its websocket what a browser does.
//
//	host OCTANT PLUGINS KUBECONFIG ADDRESS LOG
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/gorilla/websocket"
	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
)

const (
	name  = "antrea-octant-plugin"
	limit = 60 * time.Second
)

type event struct {
	Type string          `json:"type"`
	Data json.RawMessage `json:"data"`
}

type browser struct {
	connection *websocket.Conn
	events     chan event
}

func open(address string) (*browser, error) {
	header := http.Header{"Origin": {"http://" + address}}
	connection, _, err := websocket.DefaultDialer.Dial("ws://"+address+"/api/v1/stream", header)
	if err != nil {
		return nil, err
	}
	b := &browser{connection, make(chan event, 1000)}
	go func() {
		defer close(b.events)
		for {
			var one event
			if connection.ReadJSON(&one) != nil {
				return
			}
			b.events <- one
		}
	}()
	return b, nil
}

func (b *browser) send(kind string, payload any) error {
	return b.connection.WriteJSON(map[string]any{"type": kind, "payload": payload})
}

// until waits for an event of a kind whose data has all the texts.
func (b *browser) until(kind string, texts ...string) (string, error) {
	end := time.After(limit)
	last := "nothing"
	for {
		select {
		case <-end:
			return "", fmt.Errorf("no %s with %q; last: %s", kind, texts, last)
		case one, ok := <-b.events:
			if !ok {
				return "", fmt.Errorf("the websocket was closed while waiting for %s with %q", kind, texts)
			}
			if one.Type != "event.octant.dev/"+kind {
				continue
			}
			last = string(one.Data)
			missing := false
			for _, text := range texts {
				missing = missing || !strings.Contains(last, text)
			}
			if !missing {
				return last, nil
			}
		}
	}
}

func (b *browser) goTo(path string) error {
	return b.send("action.octant.dev/setContentPath", map[string]any{"contentPath": path, "params": map[string]any{}})
}

// page opens a page and waits for what it must show.
func (b *browser) page(path string, texts ...string) error {
	if err := b.goTo(name + path); err != nil {
		return err
	}
	_, err := b.until("content", texts...)
	return err
}

func (b *browser) act(form map[string]any) error {
	return b.send("action.octant.dev/performAction", form)
}

// state tells a process's parent, and whether it runs; one that nobody has waited for does not.
func state(pid int) (parent string, alive bool) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", false
	}
	// pid (name) state parent ...
	line := string(text)
	rest := strings.Fields(line[strings.LastIndex(line, ")")+1:])
	return rest[1], rest[0] != "Z"
}

// plugins are the processes of the plugin that Octant has now.
func plugins(octant int) []int {
	var found []int
	folders, _ := filepath.Glob("/proc/[0-9]*")
	for _, folder := range folders {
		pid, _ := strconv.Atoi(filepath.Base(folder))
		parent, alive := state(pid)
		target, _ := os.Readlink(folder + "/exe")
		if alive && parent == strconv.Itoa(octant) && filepath.Base(target) == name {
			found = append(found, pid)
		}
	}
	return found
}

func wait(what string, long time.Duration, until func() bool) error {
	for end := time.Now().Add(long); !until(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			return fmt.Errorf("after %s: not %s", long, what)
		}
	}
	return nil
}

// none is a plugin of which nothing is asked but what go-plugin asks itself.
type none struct{ plugin.NetRPCUnsupportedPlugin }

func (none) GRPCServer(*plugin.GRPCBroker, *grpc.Server) error { return nil }

func (none) GRPCClient(context.Context, *plugin.GRPCBroker, *grpc.ClientConn) (any, error) {
	return nil, nil
}

// secured lets go-plugin start the plugin with TLS in both directions, which Octant does not ask for.
func secured(folder string) (time.Duration, error) {
	client := plugin.NewClient(&plugin.ClientConfig{
		HandshakeConfig: plugin.HandshakeConfig{
			ProtocolVersion: 1, MagicCookieKey: "DASHBOARD_PLUGIN", MagicCookieValue: "dashboard",
		},
		Plugins:          plugin.PluginSet{"plugin": none{}},
		Cmd:              exec.Command(filepath.Join(folder, name)),
		AllowedProtocols: []plugin.Protocol{plugin.ProtocolGRPC},
		AutoMTLS:         true,
		Logger:           hclog.NewNullLogger(),
	})
	defer client.Kill()
	protocol, err := client.Client()
	if err != nil {
		return 0, err
	}
	if err := protocol.Ping(); err != nil {
		return 0, err
	}
	begun := time.Now()
	client.Kill()
	return time.Since(begun), nil
}

func run(octant, folder, kubeconfig, address, log string) error {
	output, err := os.Create(log)
	if err != nil {
		return err
	}
	defer output.Close()
	command := exec.Command(octant, "--disable-open-browser", "--listener-addr", address, "--plugin-path", folder,
		"--kubeconfig", kubeconfig, "--verbose")
	command.Stdout, command.Stderr = output, output
	if err := command.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- command.Wait() }()
	defer command.Process.Kill()

	var b *browser
	err = wait("listening", limit, func() bool {
		b, err = open(address)
		return err == nil
	})
	if err != nil {
		return err
	}
	parent := command.Process.Pid
	passed := 0
	step := func(what string, err error) error {
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		passed++
		fmt.Printf("ok: %s\n", what)
		return nil
	}
	took, err := secured(folder)
	if err == nil && took >= 2*time.Second {
		err = fmt.Errorf("it was killed after %s", took)
	}
	if err := step(fmt.Sprintf("go-plugin with TLS in both directions; Shutdown takes %s", took.Round(time.Millisecond)), err); err != nil {
		return err
	}
	_, err = b.until("navigation", name+"/components/overview", name+"/components/traceflow")
	if err := step("Octant has the plugin's menu", err); err != nil {
		return err
	}
	for _, page := range []struct {
		path  string
		texts []string
	}{
		{"", []string{"Antrea Controller Info", "antrea-agent-a", "graph antrea", "Stale: no heartbeat"}},
		{"/components/overview", []string{"Antrea Controller Info", "Antrea Agent Info", "Traceflow Info"}},
		{"/components/controller", []string{"antrea-controller-0", "ControllerHealthy"}},
		{"/components/agent", []string{"10.244.1.0/24", "br-int", "Stale: no heartbeat"}},
		{"/components/traceflow", []string{"Start New Trace", "traceflow/runTraceAgain", "There are no traces"}},
	} {
		if err := step("page "+page.path, b.page(page.path, page.texts...)); err != nil {
			return err
		}
	}

	pod := map[string]any{"sourceNamespace": "shop", "sourcePod": "web", "destinationType": []string{"Pod"},
		"destinationNamespace": "shop", "destination": "db", "protocol": []string{"TCP"}, "destinationPort": "5432"}
	with := func(action string, more map[string]any) map[string]any {
		form := map[string]any{"action": action}
		for _, fields := range []map[string]any{pod, more} {
			for key, value := range fields {
				form[key] = value
			}
		}
		return form
	}
	for _, one := range []struct {
		what string
		form map[string]any
		told []string
	}{
		{"a wrong form", with("traceflow/addTf", map[string]any{"destinationPort": "x"}), []string{"ERROR", "destinationPort"}},
		{"a new trace", with("traceflow/addTf", nil), []string{"SUCCESS", "web-db-"}},
		{"live traffic", with("traceflow/addLiveTf", map[string]any{"timeout": "30"}), []string{"SUCCESS", "live-web-db-"}},
		{"a trace again", map[string]any{"action": "traceflow/runTraceAgain"}, []string{"SUCCESS", "live-web-db-"}},
	} {
		// Names of traces have seconds.
		time.Sleep(1100 * time.Millisecond)
		if err := b.act(one.form); err != nil {
			return err
		}
		_, err := b.until("alert", one.told...)
		if err := step(one.what, err); err != nil {
			return err
		}
	}
	shown, err := b.until("content", "digraph trace", "Traceflow Info", "live-web-db-")
	if err := step("the trace is listed and drawn", err); err != nil {
		return err
	}
	first := shown[strings.Index(shown, `"web-db-`)+1:]
	first = first[:strings.Index(first, `"`)]
	if err := b.act(map[string]any{"action": "traceflow/showGraphAction", "name": []string{first}}); err != nil {
		return err
	}
	_, err = b.until("alert", "SUCCESS", first)
	if err := step("the path of another trace", err); err != nil {
		return err
	}
	if err := b.goTo("cluster-overview/nodes/node1"); err != nil {
		return err
	}
	_, err = b.until("content", "Flow tables", "AgentHealthy")
	if err := step("a Node's page has the agent", err); err != nil {
		return err
	}

	before := plugins(parent)
	if len(before) != 1 {
		return fmt.Errorf("Octant has %d plugins", len(before))
	}
	if err := syscall.Kill(before[0], syscall.SIGKILL); err != nil {
		return err
	}
	err = wait("another plugin", limit, func() bool {
		now := plugins(parent)
		return len(now) == 1 && now[0] != before[0]
	})
	if err := step("a killed plugin is started again", err); err != nil {
		return err
	}
	if err := step("and has its pages", b.page("/components/agent", "10.244.1.0/24", "Stale")); err != nil {
		return err
	}

	last := plugins(parent)
	if len(last) != 1 {
		return fmt.Errorf("Octant has %d plugins", len(last))
	}
	begun := time.Now()
	if err := command.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	err = wait("gone", 10*time.Second, func() bool {
		_, alive := state(last[0])
		return !alive
	})
	took = time.Since(begun)
	// By then Octant would have killed it.
	if err == nil && took >= 2*time.Second {
		err = fmt.Errorf("the plugin took %s", took)
	}
	if err := step(fmt.Sprintf("the plugin ends with Octant, %s", took.Round(time.Millisecond)), err); err != nil {
		return err
	}
	select {
	case <-ended:
	case <-time.After(20 * time.Second):
	}
	fmt.Printf("%d passed, 0 failed\n", passed)
	return nil
}

func main() {
	if len(os.Args) != 6 {
		fmt.Fprintln(os.Stderr, "host OCTANT PLUGINS KUBECONFIG ADDRESS LOG")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2], os.Args[3], os.Args[4], os.Args[5]); err != nil {
		fmt.Println(err)
		fmt.Println("0 passed, 1 failed")
		os.Exit(1)
	}
}
