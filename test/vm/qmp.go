package vm

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// qmpTime limits one exchange with QEMU's monitor.
const qmpTime = 30 * time.Second

// qmp talks to QEMU's monitor (QEMU docs/interop/qmp-spec.rst).
type qmp struct {
	mu      sync.Mutex
	conn    net.Conn
	dec     *json.Decoder
	greeted bool
}

func newQMP(conn net.Conn) *qmp { return &qmp{conn: conn, dec: json.NewDecoder(conn)} }

func (q *qmp) close() { q.conn.Close() }

type qmpMessage struct {
	QMP    json.RawMessage `json:"QMP"`
	Return json.RawMessage `json:"return"`
	Event  string          `json:"event"`
	Data   struct {
		Device string `json:"device"`
	} `json:"data"`
	Error *struct {
		Desc string `json:"desc"`
	} `json:"error"`
}

// call runs one command and waits for its answer.
func (q *qmp) call(command string, args map[string]any) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if err := q.conn.SetDeadline(time.Now().Add(qmpTime)); err != nil {
		return err
	}
	if !q.greeted {
		if _, err := q.await(func(m qmpMessage) bool { return m.QMP != nil }); err != nil {
			return err
		}
		if err := q.exchange("qmp_capabilities", nil); err != nil {
			return err
		}
		q.greeted = true
	}
	return q.exchange(command, args)
}

// callUntil is call, and then waits for an event about a device.
func (q *qmp) callUntil(command string, args map[string]any, event, device string) error {
	if err := q.call(command, args); err != nil {
		return err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	_, err := q.await(func(m qmpMessage) bool { return m.Event == event && m.Data.Device == device })
	return err
}

func (q *qmp) exchange(command string, args map[string]any) error {
	msg := map[string]any{"execute": command}
	if args != nil {
		msg["arguments"] = args
	}
	if err := json.NewEncoder(q.conn).Encode(msg); err != nil {
		return fmt.Errorf("monitor: %s: %w", command, err)
	}
	m, err := q.await(func(m qmpMessage) bool { return m.Return != nil || m.Error != nil })
	if err != nil {
		return fmt.Errorf("monitor: %s: %w", command, err)
	}
	if m.Error != nil {
		return fmt.Errorf("monitor: %s: %w", command, errors.New(m.Error.Desc))
	}
	return nil
}

func (q *qmp) await(want func(qmpMessage) bool) (qmpMessage, error) {
	for {
		var m qmpMessage
		if err := q.dec.Decode(&m); err != nil {
			return m, err
		}
		if want(m) {
			return m, nil
		}
	}
}
