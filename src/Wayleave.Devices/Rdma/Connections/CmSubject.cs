namespace Wayleave.Devices.Rdma.Connections;

/// <summary>Which message a REJ or an MRA is about.</summary>
public enum CmSubject
{
    Request = 0,
    Reply = 1,
    None = 2,
}
