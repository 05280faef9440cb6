using System.Globalization;
using System.Net.Sockets;
using System.Text;
using Wayleave.Core;
using Wayleave.Linux.Sharing;
using Xunit;

namespace Wayleave.Linux.Tests.Ibverbs;

/// <summary>
/// A run of Import.c, a C program of libibverbs that registers the buffer which a descriptor stands for.
/// </summary>
internal sealed class ImportProgram : IDisposable
{
    public const int RemoteAccessError = 10; // IBV_WC_REM_ACCESS_ERR, of NAK 0x62
    public const int Endless = 7; // rnr_retry

    private readonly string _file = VerbsPrograms.Compile("Import.c");
    private readonly StartedProgram _started;
    private readonly MessageSocket _socket;
    private readonly byte[] _text = new byte[256];

    /// <summary>Starts it, and waits until it has tried to register.</summary>
    /// <param name="meeting">The path of a socket that is made for it.</param>
    /// <param name="broker">That of the host which made the descriptor.</param>
    /// <param name="descriptor">Of the buffer; stays the caller's.</param>
    /// <param name="sizeBytes">Of the region.</param>
    /// <param name="expected">What <c>ibv_reg_dmabuf_mr</c> says.</param>
    /// <param name="environment">Besides the device and the broker.</param>
    public ImportProgram(
        string meeting,
        string broker,
        FileDescriptor descriptor,
        int sizeBytes,
        Errno expected = Errno.Success,
        params ReadOnlySpan<(string Name, string Value)> environment)
    {
        using Socket listener = MessageSocket.Listen(meeting, 1);
        string address = $"wl0@{Loopback.NextAddress()}";
        _started = new StartedProgram(
            _file, [meeting], VerbsPrograms.Library(), address,
            [("WAYLEAVE_BROKER", broker), .. environment]);
        _socket = new MessageSocket(listener.Accept());
        byte[] size = Encoding.ASCII.GetBytes(sizeBytes.ToString(CultureInfo.InvariantCulture));
        Assert.Equal(Errno.Success, _socket.Send(size, [descriptor]));
        Assert.Equal($"errno {(int)expected}", Receive());
    }

    /// <summary>The status that the command ends with.</summary>
    public int Ask(string command)
    {
        Assert.Equal(Errno.Success, _socket.Send(Encoding.ASCII.GetBytes(command), []));
        string answer = Receive();
        Assert.StartsWith("status ", answer, StringComparison.Ordinal);
        return int.Parse(answer.AsSpan("status ".Length), CultureInfo.InvariantCulture);
    }

    /// <summary>It deregisters everything and ends, without an error and without a signal.</summary>
    public void Quit()
    {
        Assert.Equal(Errno.Success, _socket.Send("quit"u8, []));
        VerbsRun run = _started.Wait();
        Assert.True(run.Exit == 0, run.ToString());
    }

    /// <summary>kill -9.</summary>
    public void Kill() => _started.Kill();

    public void Dispose()
    {
        _socket.Dispose();
        _started.Dispose();
        File.Delete(_file);
    }

    private string Receive()
    {
        _socket.ReceiveTimeout = Patience.Max;
        Assert.Equal(Errno.Success, _socket.Receive(_text, out int length, out _));
        Assert.True(length != 0, length != 0 ? "" : _started.Wait().ToString());
        return Encoding.ASCII.GetString(_text, 0, length);
    }
}
