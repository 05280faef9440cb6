using System.Globalization;
using System.Net;
using System.Net.Sockets;

namespace Wayleave.Linux.Tests;

/// <summary>
/// Loopback addresses and TCP ports that no other test has, in this process or in another on this machine: who has
/// taken them holds a socket that the kernel gives to one process only, until it ends. A program under test binds the
/// RoCEv2 port of its address, and its control connection's port on every address, so two tests that run at the same
/// time must have both for themselves.
/// </summary>
internal static class Loopback
{
    // Next to RoCEv2's, and nobody's here.
    private const int BlockPort = 4790;

    // Below the ports that the kernel gives to those who ask for none.
    private const int FirstPort = 10_000, PortCount = 20_000;

    private static readonly Lock s_lock = new();
    private static readonly List<Socket> s_claims = [];
    private static readonly IPAddress s_portClaims = IPAddress.Parse("127.127.127.127");
    private static int s_blocks = Environment.ProcessId % BlockCount;
    private static int s_ports = Environment.ProcessId * 97 % PortCount;
    private static string s_block = "";
    private static int s_inBlock = HostsMax;

    // 127.128.0 to 127.250.254: clear of the addresses that are written into tests whose ports the kernel chooses.
    private const int BlockCount = 123 * 255;
    private const int HostsMax = 250;

    /// <summary>An address.</summary>
    public static string NextAddress()
    {
        lock (s_lock)
        {
            if (s_inBlock == HostsMax)
            {
                (s_block, s_inBlock) = (ClaimBlock(), 0);
            }

            return string.Create(CultureInfo.InvariantCulture, $"{s_block}.{++s_inBlock}");
        }
    }

    /// <summary>The first three numbers of 250 addresses, whose last numbers are 1 to 250.</summary>
    public static string NextBlock()
    {
        lock (s_lock)
        {
            return ClaimBlock();
        }
    }

    /// <summary>A TCP port that is free on every address.</summary>
    public static int NextPort()
    {
        lock (s_lock)
        {
            for (int tried = 0; tried < PortCount; tried++)
            {
                int port = FirstPort + (s_ports++ % PortCount);
                if (TryClaim(new IPEndPoint(s_portClaims, port)) && IsFree(port))
                {
                    return port;
                }
            }
        }

        throw new InvalidOperationException("no TCP port is free");
    }

    private static string ClaimBlock()
    {
        for (int tried = 0; tried < BlockCount; tried++)
        {
            int block = s_blocks++ % BlockCount;
            string prefix = string.Create(CultureInfo.InvariantCulture, $"127.{128 + (block / 255)}.{block % 255}");
            if (TryClaim(new IPEndPoint(IPAddress.Parse(prefix + ".254"), BlockPort)))
            {
                return prefix;
            }
        }

        throw new InvalidOperationException("no loopback address is free");
    }

    private static bool TryClaim(IPEndPoint end)
    {
        Socket socket = new(AddressFamily.InterNetwork, SocketType.Dgram, ProtocolType.Udp)
        {
            ExclusiveAddressUse = true,
        };
        try
        {
            socket.Bind(end);
        }
        catch (SocketException e) when (e.SocketErrorCode == SocketError.AddressAlreadyInUse)
        {
            socket.Dispose();
            return false;
        }

        s_claims.Add(socket);
        return true;
    }

    // Also of connections that have ended a moment ago: not every program says SO_REUSEADDR.
    private static bool IsFree(int port)
    {
        foreach (IPAddress any in (IPAddress[])[IPAddress.Any, IPAddress.IPv6Any])
        {
            try
            {
                using Socket socket = new(any.AddressFamily, SocketType.Stream, ProtocolType.Tcp)
                {
                    ExclusiveAddressUse = true,
                };
                socket.Bind(new IPEndPoint(any, port));
            }
            catch (SocketException e) when (e.SocketErrorCode == SocketError.AddressAlreadyInUse)
            {
                return false;
            }
            catch (SocketException e) when (e.SocketErrorCode == SocketError.AddressFamilyNotSupported)
            {
                continue; // a machine without IPv6
            }
        }

        return true;
    }
}
