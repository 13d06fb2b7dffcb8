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

// ownsSocket says whether one of these processes has the socket with this local
// address.
func ownsSocket(pids []int, a net.Addr) bool {
	tcp, ok := a.(*net.TCPAddr)
	if !ok || len(pids) == 0 {
		return false
	}
	inode := socketInode(tcp)
	if inode == "" {
		return false
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

// socketInode finds the socket that is bound to an IPv4 address.
func socketInode(a *net.TCPAddr) string {
	ip := slices.Clone(a.IP.To4())
	slices.Reverse(ip) // as the kernel prints it on a little-endian machine
	local := fmt.Sprintf("%s:%04X", strings.ToUpper(hex.EncodeToString(ip)), a.Port)
	table, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(table)) {
		fields := strings.Fields(line)
		const inode = 9
		if len(fields) > inode && fields[1] == local && fields[inode] != "0" {
			return fields[inode]
		}
	}
	return ""
}
