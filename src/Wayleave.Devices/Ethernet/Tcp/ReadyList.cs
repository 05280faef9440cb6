using System.Diagnostics.CodeAnalysis;

namespace Wayleave.Devices.Ethernet.Tcp;

/// <summary>
/// The connections that may have something to send, each once, the one that waits longest first. The links are in the
/// connections.
/// </summary>
internal sealed class ReadyList
{
    private TcpConnection? _first;
    private TcpConnection? _last;

    /// <summary>Adds a connection behind the others; nothing for one that waits already.</summary>
    public void Add(TcpConnection connection)
    {
        if (connection.IsReady)
        {
            return;
        }

        connection.IsReady = true;
        connection.NextReady = null;
        if (_last is null)
        {
            _first = connection;
        }
        else
        {
            _last.NextReady = connection;
        }

        _last = connection;
    }

    /// <summary>Takes the first one; false when none waits.</summary>
    public bool TryTake([NotNullWhen(true)] out TcpConnection? connection)
    {
        connection = _first;
        if (connection is null)
        {
            return false;
        }

        _first = connection.NextReady;
        _last = _first is null ? null : _last;
        connection.NextReady = null;
        connection.IsReady = false;
        return true;
    }
}
