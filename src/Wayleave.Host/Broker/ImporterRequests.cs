using Wayleave.Client.Wire;
using Wayleave.Core;
using Wayleave.Linux.Sharing;

namespace Wayleave.Host.Broker;

/// <summary>
/// Requests of programs with a device of their own. Each member is false for a body that is not that of its operation;
/// then nothing was done. Of the connection's thread.
/// </summary>
/// <param name="session">Of the connection.</param>
/// <param name="socket">Where notices go, between answers.</param>
internal sealed class ImporterRequests(BrokerSession session, MessageSocket socket)
{
    private const int NoticeBytes = BrokerMessage.HeaderBytes + (2 * sizeof(uint));

    public bool TryAttach(ref BrokerReader body, ref BrokerReply reply)
    {
        if (!body.TryReadUInt32(out uint buffer) || !body.IsEnd)
        {
            return false;
        }

        BrokerImporter made = BrokerImporter.Attach(session, session.FindBuffer(buffer, "attach"), Tell);
        try
        {
            made.Number = session.Add(made);
        }
        catch
        {
            made.End();
            throw;
        }

        reply.Body.WriteUInt32(made.Number);
        return true;
    }

    public bool TryMap(ref BrokerReader body, ref BrokerReply reply)
    {
        if (!TryFind(ref body, "map", out BrokerImporter? importer))
        {
            return false;
        }

        reply.Descriptor = importer!.Map();
        return true;
    }

    public bool TryRelease(ref BrokerReader body)
    {
        if (!TryFind(ref body, "release", out BrokerImporter? importer))
        {
            return false;
        }

        importer!.Release();
        return true;
    }

    // Any thread: a message is whole or not there. Who does not read is cut off, as with answers.
    private void Tell(uint number, bool isRevoked)
    {
        Span<byte> notice = stackalloc byte[NoticeBytes];
        BrokerWriter writer = BrokerMessage.Begin(
            notice, new BrokerHeader(BrokerOperation.Invalidated, IsAnswer: true, Errno.Success, Tag: 0));
        writer.WriteUInt32(number);
        writer.WriteUInt32(isRevoked ? 1u : 0);
        try
        {
            if (socket.Send(writer.Finish(), [], waits: false) != Errno.Success)
            {
                socket.Shutdown();
            }
        }
        catch (ObjectDisposedException)
        {
            // The connection has ended, and its thread lets go of everything.
        }
    }

    private bool TryFind(ref BrokerReader body, string operation, out BrokerImporter? importer)
    {
        importer = null;
        if (!body.TryReadUInt32(out uint number) || !body.IsEnd)
        {
            return false;
        }

        importer = session.Find<BrokerImporter>(number, operation, "attachment");
        return true;
    }
}
