package clusterproc

import (
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// ownsSocket says whether one of these processes has the other end of a
// connection from this machine.
func ownsSocket(pids []int, conn net.Conn) bool {
	// A moment is a listing of all sockets, which may miss some that stay while
	// others come and go.
	const moments = 5
	inode := ""
	for i := 0; i < moments && inode == ""; i++ {
		inode = socketInode(conn.RemoteAddr(), conn.LocalAddr())
	}
	for _, pid := range pids {
		folder := filepath.Join("/proc", strconv.Itoa(pid), "fd")
		files, _ := os.ReadDir(folder) // a process that has ended has none
		for _, f := range files {
			if to, err := os.Readlink(filepath.Join(folder, f.Name())); err == nil && to == "socket:["+inode+"]" {
				return true
			}
		}
	}
	return false
}

// socketInode finds the socket that is bound to an IPv4 address and connected to
// another one; empty where there is none.
func socketInode(local, remote net.Addr) string {
	want := [2]string{inTable(local), inTable(remote)}
	// Another thread, such as the process's first, may be in another namespace.
	table, err := os.ReadFile("/proc/thread-self/net/tcp")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(table)) {
		fields := strings.Fields(line)
		const inode = 9
		if len(fields) > inode && [2]string(fields[1:3]) == want && fields[inode] != "0" {
			return fields[inode]
		}
	}
	return ""
}

// inTable is an address as the kernel of a little-endian machine prints it.
func inTable(a net.Addr) string {
	tcp, ok := a.(*net.TCPAddr)
	if !ok || tcp.IP.To4() == nil {
		return ""
	}
	ip := slices.Clone(tcp.IP.To4())
	slices.Reverse(ip)
	return fmt.Sprintf("%s:%04X", strings.ToUpper(hex.EncodeToString(ip)), tcp.Port)
}
