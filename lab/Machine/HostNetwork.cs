using Wayleave.Lab.Interop;

namespace Wayleave.Lab.Machine;

/// <summary>
/// A network of the lab's own, in a network namespace of its own: the host is <see cref="HostAddress"/>, the guest
/// <see cref="GuestAddress"/>, and nothing else is reachable. No privilege is needed where user namespaces are allowed.
/// </summary>
internal static class HostNetwork
{
    internal const string HostAddress = "10.88.0.1";
    internal const string GuestAddress = "10.88.0.2";
    internal const string HostAddress6 = "fd88::1";
    internal const string GuestAddress6 = "fd88::2";

    /// <summary>The guest's network card.</summary>
    internal const string GuestMac = "02:00:00:00:58:02";

    /// <summary>The frames that fit: an RDMA path MTU of 4096 with its headers.</summary>
    internal const int Mtu = 4500;

    private const string Device = "lab0";

    /// <summary>QEMU's arguments for a card on the TAP device.</summary>
    internal static IReadOnlyList<string> Arguments =>
    [
        "-netdev", $"tap,id=lab,ifname={Device},script=no,downscript=no",
        "-device", $"virtio-net-pci,netdev=lab,mac={GuestMac},host_mtu={Mtu}",
    ];

    /// <summary>
    /// Puts a command into a fresh network namespace that has the TAP device, and in which <paramref name="beside"/>
    /// runs at the same time.
    /// </summary>
    /// <param name="command">The program that uses the device, and its arguments; its end is the end.</param>
    /// <param name="beside">
    /// A command for bash, or null. Its output goes to <paramref name="log"/>, its exit code to LOG.exit.
    /// </param>
    /// <param name="log">A file.</param>
    internal static IReadOnlyList<string> Wrap(IReadOnlyList<string> command, string? beside, string log)
    {
        string script = $"""
            set -e
            ip link set lo up
            ip tuntap add dev {Device} mode tap
            ip link set {Device} mtu {Mtu}
            ip addr add {HostAddress}/24 dev {Device}
            ip -6 addr add {HostAddress6}/64 dev {Device} nodad 2>/dev/null || true
            ip link set {Device} up
            if [ -n "$LAB_BESIDE" ]; then
                (set +e; bash -c "$LAB_BESIDE" >"$LAB_BESIDE_LOG" 2>&1 </dev/null; echo $? >"$LAB_BESIDE_LOG.exit") &
                beside=$!
            fi
            "$@" && code=0 || code=$?
            if [ -n "$LAB_BESIDE" ]; then
                # It had the whole run; what it says now it says soon.
                for _ in 1 2 3 4 5 6 7 8 9 10; do kill -0 $beside 2>/dev/null || break; sleep 0.5; done
                kill $beside 2>/dev/null || true
            fi
            exit $code
            """;
        string[] unshare = Libc.IsRoot ? ["unshare", "--net"] : ["unshare", "--map-root-user", "--net"];
        return [
            "env", $"LAB_BESIDE={beside}", $"LAB_BESIDE_LOG={log}", .. unshare, "bash", "-c", script, "lab-network",
            .. command,
        ];
    }

    /// <summary>Why a network cannot be made here, or null.</summary>
    internal static string? Missing()
    {
        if (!File.Exists("/dev/net/tun"))
        {
            return "no /dev/net/tun";
        }

        IReadOnlyList<string> wrapped = Wrap(["true"], beside: null, log: "/dev/null");
        ToolResult result = Tool.Run(wrapped[0], wrapped.Skip(1));
        return result.ExitCode == 0 ? null : $"no network namespace with a TAP device: {result.Complaint}";
    }
}
